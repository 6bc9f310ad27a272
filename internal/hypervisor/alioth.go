package hypervisor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// alioth compiles for Alioth 0.12.0; options as in its alioth-cli/src/boot and
// as "alioth boot --help" lists them.
type alioth struct{}

// aliothArgs collects the argument vector of one VM.
type aliothArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// objects are values that cannot be written in an option itself.
	objects []string
}

func (alioth) faults(_ *Builder, s *spec.Spec) spec.Faults {
	return slices.Concat(fixedSocket(s, "alioth has no control socket"), refuseReadiness(s, false))
}

func (alioth) compile(_ *Builder, s *spec.Spec, p *Plan) error {
	program := programOf(s.Alioth.Package, "alioth", "alioth")
	p.Readiness = readiness(s, true, nil, "")
	p.KVM = KVMRequired
	// Its serial port reads the terminal settings of standard input, and fails if that
	// is not a terminal.
	p.TerminalStdin = true
	p.StaleSockets = nil
	var err error
	if p.Shutdown, err = viaGuest(s, "alioth has no control socket", ""); err != nil {
		return err
	}
	noteMachineID(s, p)
	a := &aliothArgs{s: s, p: p}
	a.add(program, "run",
		"--memory", fmt.Sprintf("size=%dM,backend=memfd", s.Mem),
		"--cpu", "count="+strconv.Itoa(s.VCPU),
		"--kernel", Literal(s.Kernel))
	if s.InitrdPath != "" {
		a.add("--initramfs", Literal(s.InitrdPath))
	}
	a.add("--cmdline", aliothLine(s, p), "--entropy")
	a.disks()
	for _, share := range s.Shares {
		a.add("--fs", "vu,socket="+a.value(*share.Socket.Value)+",tag="+a.value(share.Tag))
	}
	for _, n := range s.Interfaces {
		// mtu has no default.
		a.add("--net", fmt.Sprintf("tap,if=%s,mac=%s,mtu=1500,qp=%d", a.value(n.ID), n.MAC, queueCount(s)))
	}
	if s.Vsock.CID != nil {
		a.add("--vsock", fmt.Sprintf("vhost,cid=%d", *s.Vsock.CID))
	}
	if s.Balloon {
		a.add("--balloon", "free_page_reporting=true")
		p.Notes = append(p.Notes, "alioth cannot set the size of its balloon: the guest only returns unused pages through it")
	}
	for _, object := range a.objects {
		a.add("--object", object)
	}
	p.Argv = a.argv
	return nil
}

func aliothLine(s *spec.Spec, p *Plan) string {
	return kernelCommandLine(s, p, serialConsole(s), "reboot=t", "panic=-1")
}

// kernelLine returns the command line unchanged: alioth adds nothing.
func (alioth) kernelLine(_ *Builder, s *spec.Spec) (string, error) {
	p := &Plan{Readiness: readiness(s, true, nil, "")}
	var err error
	p.Shutdown, err = viaGuest(s, "", "")
	return aliothLine(s, p), err
}

func (a *aliothArgs) add(words ...string) { a.argv = append(a.argv, words...) }

func (a *aliothArgs) disks() {
	keepLocks(a.p)
	if *a.s.StoreOnDisk {
		a.add("--blk", "file,path="+a.value(a.s.StoreDisk)+",readonly=true")
	}
	for _, v := range a.s.Volumes {
		a.add("--blk", fmt.Sprintf("file,path=%s,readonly=%t", a.value(v.Image), v.ReadOnly))
	}
}

// value returns text as the value of a key. If it contains a comma or an equals sign, or
// looks like the name of an object, it is put into an object of its own.
func (a *aliothArgs) value(text string) string {
	const prefix = "id_"
	if !strings.ContainsAny(text, ",=") && !strings.HasPrefix(text, prefix) {
		return Literal(text)
	}
	id := prefix + strconv.Itoa(len(a.objects))
	a.objects = append(a.objects, id+","+Literal(text))
	return id
}
