package hypervisor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"microvm/internal/spec"
)

// kvmtool compiles for kvmtool (lkvm) of 2024 and 2025, which has no releases;
// options as in its builtin-run.c, disk/core.c and virtio/net.c.
type kvmtool struct{}

func (kvmtool) compile(_ *Builder, s *spec.Spec, p *Plan) error {
	program := program(s.Kvmtool.Package, "lkvm", "lkvm")
	// Below HOME, kvm-ipc.c; the spec's socket is of no use to it.
	socket := filepath.Join(".lkvm", s.Name+".sock")
	control := &Control{Method: "kvmtool", Socket: socket, Program: program}
	var err error
	p.Readiness, err = readiness(s, true, control, "")
	if err := asFaults(refuseCommas(s), err); err != nil {
		return err
	}
	p.KVM = KVMRequired
	p.Env = []string{"HOME=."}
	// Its serial port reads standard input, and takes an end for a reason to spin.
	p.HoldStdin = true
	p.StaleSockets = append(p.StaleSockets, socket)
	p.Shutdown = noWayDown("kvmtool has no power button and no keyboard, and lkvm stop is not graceful")
	if s.Balloon {
		p.Balloon = control
	}
	p.Argv = slices.Concat(
		[]string{program, "run", "--name", Literal(s.Name), "-m", strconv.Itoa(s.Mem), "-c", strconv.Itoa(s.VCPU)},
		[]string{"--console", "serial", "--rng", "-k", Literal(s.Kernel)},
		kvmtoolInitrd(s),
		[]string{"-p", kernelCommandLine(s, p, serialConsole(s), "reboot=k", "panic=-1")},
		kvmtoolDisks(s), kvmtoolShares(s), kvmtoolInterfaces(s, p),
	)
	if s.Balloon {
		p.Argv = append(p.Argv, "--balloon")
	}
	for _, d := range s.Devices {
		p.Argv = append(p.Argv, "--vfio-pci", d.Path)
	}
	if s.Vsock.CID != nil {
		p.Argv = append(p.Argv, "--vsock", strconv.FormatInt(*s.Vsock.CID, 10))
	}
	return nil
}

func kvmtoolInitrd(s *spec.Spec) []string {
	if s.InitrdPath == "" {
		return nil
	}
	return []string{"-i", Literal(s.InitrdPath)}
}

func kvmtoolDisks(s *spec.Spec) []string {
	var out []string
	if *s.StoreOnDisk {
		out = append(out, "-d", Literal(s.StoreDisk)+",ro")
	}
	for _, v := range s.Volumes {
		disk := Literal(v.Image)
		if v.Direct {
			disk += ",direct"
		}
		if v.ReadOnly {
			disk += ",ro"
		}
		out = append(out, "-d", disk)
	}
	return out
}

func kvmtoolShares(s *spec.Spec) []string {
	var out []string
	for _, share := range s.Shares {
		out = append(out, "--9p", Literal(share.Source)+","+share.Tag)
	}
	return out
}

// kvmtoolInterfaces names macvtaps by their device, which kvmtool opens itself:
// a descriptor of ours beside it would be a queue that nobody reads.
func kvmtoolInterfaces(s *spec.Spec, p *Plan) []string {
	if len(s.Interfaces) == 0 {
		// Otherwise it makes one by itself.
		return []string{"-n", "mode=none"}
	}
	var out []string
	for _, n := range s.Interfaces {
		switch n.Type {
		case "user":
			out = append(out, "-n", "mode=user,guest_mac="+n.MAC)
		case "macvtap":
			out = append(out, "-n", fmt.Sprintf("mode=tap,tapif=%s,guest_mac=%s", MacvtapDevice(n.ID), n.MAC))
		default:
			tap := fmt.Sprintf("mode=tap,tapif=%s,guest_mac=%s", n.ID, n.MAC)
			if n.Tap.Vhost {
				tap += ",vhost=1"
			}
			out = append(out, "-n", tap)
		}
	}
	for i := range p.Macvtaps {
		p.Macvtaps[i].Queues = 0
	}
	return out
}
