package hypervisor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// stratovirt compiles for StratoVirt 2.5.0, and 2.4; options as in its
// docs/config_guidebook.md and machine_manager/src/config, limits as in
// machine/src/micro_common.
type stratovirt struct{}

// stratovirtArgs collects the argument vector of one VM.
type stratovirtArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// rng says that there is a random number generator for the guest.
	rng bool
	// slot is the next free one of machine virt's PCI bus.
	slot int
}

// Limits of StratoVirt and its machines.
const (
	// stratovirtQueues is the most queues that a network device may have.
	stratovirtQueues = 16
	// stratovirtWord is the most bytes of a value on the kernel's command line.
	stratovirtWord = 255
	// Machine microvm has so many virtio-mmio devices of each kind, and interrupts
	// (5 to 15) for so many others.
	stratovirtDisks, stratovirtNets, stratovirtOthers = 4, 2, 5
	// stratovirtSlots is what is free on machine virt's PCI bus beside its bridge.
	stratovirtSlots = 31
)

func (stratovirt) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := stratovirtProgram(s)
	control := controlOf(s, "qmp")
	if s.Arch != "aarch64" {
		p.Notes = append(p.Notes, "StratoVirt's machine microvm tells the guest of its devices on the kernel's command line: its kernel needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, which NixOS' has and Debian's has not")
	}
	a := &stratovirtArgs{s: s, p: p, slot: 1, rng: stratovirtRNG(b, program)}
	p.Readiness = readiness(s, true, control, "")
	p.KVM = KVMRequired
	// Its serial port on standard output sets the terminal that standard input is,
	// and does not start where that is none.
	p.TerminalStdin = true
	p.Shutdown = Shutdown{Method: ShutdownPowerButton, Control: control, Why: "machine virt has a power button"}
	if s.Arch != "aarch64" {
		var err error
		if p.Shutdown, err = viaGuest(s, "StratoVirt's machine microvm has no power button and no keyboard", ""); err != nil {
			return err
		}
	}
	a.notes()
	a.add(program, "-name", Literal(s.Name), "-machine", a.machine(), "-m", fmt.Sprintf("%dM", s.Mem), "-smp", strconv.Itoa(s.VCPU))
	a.add("-kernel", Literal(s.Kernel))
	if s.InitrdPath != "" {
		a.add("-initrd", Literal(s.InitrdPath))
	}
	a.add("-append", stratovirtLine(s, p))
	a.add("-serial", "stdio", "-qmp", "unix:"+Literal(control.Socket)+",server,nowait")
	if a.rng {
		a.add("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", a.device("virtio-rng")+",rng=rng,id=rng0")
	}
	a.disks()
	a.shares()
	a.interfaces()
	if s.Vsock.CID != nil {
		a.add("-device", a.device("vhost-vsock")+fmt.Sprintf(",id=vsock0,guest-cid=%d", *s.Vsock.CID))
	}
	p.Argv = a.argv
	return nil
}

func stratovirtLine(s *spec.Spec, p *Plan) string {
	return kernelCommandLine(s, p, serialConsole(s), "edd=off", "reboot=t", "panic=-1")
}

// kernelLine has, behind the command line, what machine microvm tells a guest of
// its devices: of each disk and network device that it has room for, used or not,
// and of the others (machine/src/micro_common).
func (stratovirt) kernelLine(b *Builder, s *spec.Spec) (string, error) {
	p := &Plan{Readiness: readiness(s, true, controlOf(s, "qmp"), "")}
	if s.Arch == "aarch64" {
		return stratovirtLine(s, p), nil
	}
	var err error
	p.Shutdown, err = viaGuest(s, "", "")
	devices := stratovirtDisks + stratovirtNets + stratovirtOtherDevices(b, s)
	return stratovirtLine(s, p) + strings.Repeat(" virtio_mmio.device=512@0xf0100000:15", devices), err
}

// stratovirtOtherDevices counts shares, vsock and the random number generator.
func stratovirtOtherDevices(b *Builder, s *spec.Spec) int {
	n := len(s.Shares)
	for _, has := range []bool{stratovirtRNG(b, stratovirtProgram(s)), s.Vsock.CID != nil} {
		if has {
			n++
		}
	}
	return n
}

func stratovirtProgram(s *spec.Spec) string {
	return programOf(s.Stratovirt.Package, "stratovirt", "stratovirt")
}

// stratovirtRNG says whether the program surely has virtio-rng: from 2.5 on only
// where it was built with it, which cannot be asked. The guest has the CPU's own.
func stratovirtRNG(b *Builder, program string) bool {
	return b.older(program, 2, 5)
}

func (a *stratovirtArgs) notes() {
	if a.s.Vsock.CID != nil && !a.rng {
		a.p.Notes = append(a.p.Notes, "from 2.5 on StratoVirt has a vsock only where it was built with feature vhost_vsock")
	}
	noteMachineID(a.s, a.p)
}

func (stratovirt) faults(b *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(refuseCharacters(s), refuseReadiness(s, s.Socket.Value != nil))
	if s.Socket.Value == nil {
		faults.Addf("socket", "is null, and StratoVirt does not start without its control socket; leave the field out")
	}
	for i, param := range s.KernelParams {
		for word := range strings.FieldsSeq(param) {
			_, value, found := strings.Cut(word, "=")
			if !found {
				value = word
			}
			if len(value) > stratovirtWord {
				faults.Addf(fmt.Sprintf("kernelParams[%d]", i), "has a value of %d bytes; StratoVirt takes %d\nhint: shorten it, or take another hypervisor", len(value), stratovirtWord)
			}
		}
	}
	disks, others := len(s.Volumes), stratovirtOtherDevices(b, s)
	if *s.StoreOnDisk {
		disks++
	}
	if s.InitrdPath == "" && disks == 0 {
		faults.Addf("initrdPath", "is missing, and there is no disk either: StratoVirt starts no kernel that has nothing to boot from")
	}
	if s.Arch == "aarch64" {
		if n := disks + others + len(s.Interfaces); n > stratovirtSlots {
			faults.Addf("volumes", "machine virt has room for %d devices, and the spec has %d; merge volumes or shares", stratovirtSlots, n)
		}
		return faults
	}
	for _, limit := range []struct {
		path, what string
		have, room int
	}{
		{"volumes", "disks, with the store's", disks, stratovirtDisks},
		{"interfaces", "interfaces", len(s.Interfaces), stratovirtNets},
		{"shares", "shares, with vsock and the random number generator", others, stratovirtOthers},
	} {
		if limit.have > limit.room {
			faults.Addf(limit.path, "machine microvm has room for %d %s, and the spec has %d; leave some out, or take qemu", limit.room, limit.what, limit.have)
		}
	}
	return faults
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
		a.add("-drive", fmt.Sprintf("id=%s,if=none,format=raw,readonly=%s,direct=%s,file=%s", id, onOff(v.ReadOnly), onOff(v.Direct), Literal(notAnOption(v.Image))),
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

// interfaces: those of machine microvm are there before it knows how many queues
// they are to have (machine/src/micro_common), and then have one.
func (a *stratovirtArgs) interfaces() {
	queues := 1
	if a.s.Arch == "aarch64" {
		queues = min(a.s.VCPU, stratovirtQueues)
	}
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
			netdev += ",ifname=" + Literal(n.ID)
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
