package hypervisor

import (
	"fmt"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// stratovirt compiles for StratoVirt 2.5; options as in its
// docs/config_guidebook.md and machine_manager/src/config.
type stratovirt struct{}

// stratovirtArgs collects the argument vector of one VM.
type stratovirtArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// slot is the next free one of machine virt's PCI bus.
	slot int
}

// stratovirtQueues is the most queues that a network device may have.
const stratovirtQueues = 16

func (stratovirt) compile(_ *Builder, s *spec.Spec, p *Plan) error {
	program := program(s.Stratovirt.Package, "stratovirt", "stratovirt")
	control := controlOf(s, "qmp")
	var err error
	p.Readiness, err = readiness(s, true, control, "")
	if err := asFaults(refuseCommas(s), err); err != nil {
		return err
	}
	p.KVM = KVMRequired
	// Its serial port on standard output insists on a terminal as standard input.
	p.TerminalStdin = true
	switch {
	case s.Arch != "aarch64":
		p.Shutdown = noWayDown("StratoVirt's machine microvm has no power button and no keyboard")
	case control == nil:
		p.Shutdown = noWayDown("socket is null, so StratoVirt cannot be asked")
	default:
		p.Shutdown = Shutdown{Method: ShutdownPowerButton, Control: control, Why: "machine virt has a power button"}
	}
	a := &stratovirtArgs{s: s, p: p, slot: 1}
	a.add(program, "-name", Literal(s.Name), "-machine", a.machine(), "-m", fmt.Sprintf("%dM", s.Mem), "-smp", strconv.Itoa(s.VCPU))
	a.add("-kernel", Literal(s.Kernel))
	if s.InitrdPath != "" {
		a.add("-initrd", Literal(s.InitrdPath))
	}
	a.add("-append", kernelCommandLine(s, p, serialConsole(s), "edd=off", "reboot=t", "panic=-1"))
	a.add("-serial", "stdio")
	if control != nil {
		a.add("-qmp", "unix:"+Literal(control.Socket)+",server,nowait")
	}
	a.add("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", a.device("virtio-rng")+",rng=rng,id=rng0")
	a.disks()
	a.shares()
	a.interfaces()
	if s.Vsock.CID != nil {
		a.add("-device", a.device("vhost-vsock")+fmt.Sprintf(",id=vsock0,guest-cid=%d", *s.Vsock.CID))
	}
	p.Argv = a.argv
	return nil
}

func (a *stratovirtArgs) add(words ...string) { a.argv = append(a.argv, words...) }

// machine shares the guest's memory where another process maps it: a virtiofsd.
func (a *stratovirtArgs) machine() string {
	name := "microvm"
	if a.s.Arch == "aarch64" {
		name = "virt"
	}
	return name + ",mem-share=" + onOff(len(a.p.Shares) > 0)
}

// device names a device on the bus that the machine has: microvm has virtio-mmio,
// virt a PCI bus whose slots are given out here, for it does not do so itself.
func (a *stratovirtArgs) device(kind string) string {
	if a.s.Arch != "aarch64" {
		return kind + "-device"
	}
	a.slot++
	return fmt.Sprintf("%s-pci,bus=pcie.0,addr=%#x", kind, a.slot-1)
}

func (a *stratovirtArgs) disks() {
	if *a.s.StoreOnDisk {
		a.add("-drive", "id=store,if=none,format=raw,readonly=on,direct=off,file="+Literal(a.s.StoreDisk),
			"-device", a.device("virtio-blk")+",drive=store,id=blk_store")
	}
	for i, v := range a.s.Volumes {
		id := "volume" + strconv.Itoa(i)
		device := a.device("virtio-blk") + ",drive=" + id + ",id=blk_" + id
		if v.Serial != nil {
			device += ",serial=" + Literal(*v.Serial)
		}
		a.add("-drive", fmt.Sprintf("id=%s,if=none,format=raw,readonly=%s,direct=%s,file=%s", id, onOff(v.ReadOnly), onOff(v.Direct), Literal(v.Image)),
			"-device", device)
	}
}

func (a *stratovirtArgs) shares() {
	for i, share := range a.s.Shares {
		id := "fs" + strconv.Itoa(i)
		a.add("-chardev", "socket,id="+id+",path="+Literal(*share.Socket.Value),
			"-device", a.device("vhost-user-fs")+",id="+id+"_dev,chardev="+id+",tag="+share.Tag)
	}
}

func (a *stratovirtArgs) interfaces() {
	queues := min(a.s.VCPU, stratovirtQueues)
	for i, n := range a.s.Interfaces {
		id := "net" + strconv.Itoa(i)
		netdev := "tap,id=" + id
		if n.Type == "macvtap" {
			fds := make([]string, queues)
			for queue := range fds {
				fds[queue] = MacvtapFD(n.ID, queue)
			}
			netdev += ",fds=" + strings.Join(fds, ":")
		} else {
			netdev += ",ifname=" + n.ID
		}
		if queues > 1 {
			netdev += ",queues=" + strconv.Itoa(queues)
		}
		a.add("-netdev", netdev, "-device", a.device("virtio-net")+fmt.Sprintf(",id=%s_dev,netdev=%s,mac=%s,mq=%s", id, id, n.MAC, onOff(queues > 1)))
	}
	for i := range a.p.Macvtaps {
		a.p.Macvtaps[i].Queues = queues
	}
}
