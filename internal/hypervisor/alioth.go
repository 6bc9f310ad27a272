package hypervisor

import (
	"fmt"
	"strconv"

	"microvm/internal/spec"
)

// alioth compiles for Alioth 0.12; options as "alioth run --help" of that version
// lists them.
type alioth struct{}

func (alioth) compile(_ *Builder, s *spec.Spec, p *Plan) error {
	program := program(s.Alioth.Package, "alioth", "alioth")
	var err error
	p.Readiness, err = readiness(s, true, nil, "")
	if err := asFaults(refuseCommas(s), err); err != nil {
		return err
	}
	p.KVM = KVMRequired
	// Its serial port insists on a terminal as standard input.
	p.TerminalStdin = true
	p.Shutdown = noWayDown("alioth has no control socket")
	p.Argv = []string{
		program, "run",
		"--memory", fmt.Sprintf("size=%dM,backend=memfd", s.Mem),
		"--cpu", "count=" + strconv.Itoa(s.VCPU),
		"--kernel", Literal(s.Kernel),
	}
	add := func(words ...string) { p.Argv = append(p.Argv, words...) }
	if s.InitrdPath != "" {
		add("--initramfs", Literal(s.InitrdPath))
	}
	add("--cmdline", kernelCommandLine(s, p, serialConsole(s), "reboot=t", "panic=-1"), "--entropy")
	if *s.StoreOnDisk {
		add("--blk", "file,path="+Literal(s.StoreDisk)+",readonly=true")
	}
	for _, v := range s.Volumes {
		add("--blk", fmt.Sprintf("file,path=%s,readonly=%t", Literal(v.Image), v.ReadOnly))
	}
	for _, share := range s.Shares {
		add("--fs", "vu,socket="+Literal(*share.Socket.Value)+",tag="+share.Tag)
	}
	for _, n := range s.Interfaces {
		add("--net", fmt.Sprintf("tap,if=%s,mac=%s,mtu=1500,qp=%d", n.ID, n.MAC, s.VCPU))
	}
	if s.Vsock.CID != nil {
		add("--vsock", fmt.Sprintf("vhost,cid=%d", *s.Vsock.CID))
	}
	return nil
}
