package hypervisor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// stratovirt compiles for StratoVirt 2.4 and 2.5.0. Its options are those of
// docs/config_guidebook.md and machine_manager/src/config, its limits those of
// machine/src/micro_common.
type stratovirt struct{}

// stratovirtArgs collects the argument vector of one VM.
type stratovirtArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// rng means that the guest gets a virtio random number generator.
	rng bool
	// slot is the next free slot of machine virt's PCI bus.
	slot int
}

// Limits of StratoVirt and its machines.
const (
	// stratovirtQueues is the maximum number of queues of a network device.
	stratovirtQueues = 16
	// stratovirtWord is the maximum length of a value on the kernel's command line, in
	// bytes.
	stratovirtWord = 255
	// Machine microvm has fixed numbers of disks and network devices, and interrupts
	// (5 to 15) for a number of other devices.
	stratovirtDisks, stratovirtNets, stratovirtOthers = 4, 2, 5
	// stratovirtSlots is the number of free slots of machine virt's PCI bus.
	stratovirtSlots = 31
)

func (stratovirt) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := stratovirtProgram(s)
	control := controlOf(s, "qmp")
	if s.Arch != "aarch64" {
		p.Notes = append(p.Notes, "the guest's kernel needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (NixOS' has it, Debian's does not)")
	}
	a := &stratovirtArgs{s: s, p: p, slot: 1, rng: stratovirtRNG(b, program)}
	p.Readiness = readiness(s, true, control, "")
	p.KVM = KVMRequired
	// Its serial port changes the terminal settings of standard input, and StratoVirt does
	// not start if that is not a terminal.
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

// kernelLine returns the command line with what machine microvm appends: one argument for
// each disk and network device that it supports, used or not, and for each other device
// (machine/src/micro_common).
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

// stratovirtOtherDevices returns the number of shares, vsocks and random number generators.
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

// stratovirtRNG reports whether the program is known to have virtio-rng. Since 2.5 that is
// a build option, which cannot be queried. The guest still has the CPU's generator.
func stratovirtRNG(b *Builder, program string) bool {
	return b.older(program, 2, 5)
}

func (a *stratovirtArgs) notes() {
	if a.s.Vsock.CID != nil && !a.rng {
		a.p.Notes = append(a.p.Notes, "StratoVirt 2.5 and newer support vsock only if built with feature vhost_vsock")
	}
	noteMachineID(a.s, a.p)
}

func (stratovirt) faults(b *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(refuseCharacters(s), refuseReadiness(s, s.Socket.Value != nil))
	if s.Socket.Value == nil {
		faults.Addf("socket", "must not be null, as StratoVirt requires a control socket").Hintf("leave the field out")
	}
	for i, param := range s.KernelParams {
		for word := range strings.FieldsSeq(param) {
			_, value, found := strings.Cut(word, "=")
			if !found {
				value = word
			}
			if len(value) > stratovirtWord {
				faults.Addf(fmt.Sprintf("kernelParams[%d]", i), "value must be at most %d bytes for StratoVirt, not %d", stratovirtWord, len(value)).
					Hintf("shorten it, or use another hypervisor")
			}
		}
	}
	disks, others := len(s.Volumes), stratovirtOtherDevices(b, s)
	if *s.StoreOnDisk {
		disks++
	}
	if s.InitrdPath == "" && disks == 0 {
		faults.Addf("initrdPath", "StratoVirt needs an initrd or a disk")
	}
	if s.Arch == "aarch64" {
		if n := disks + others + len(s.Interfaces); n > stratovirtSlots {
			faults.Addf("volumes", "too many devices: machine virt supports %d, and the spec has %d", stratovirtSlots, n).
				Hintf("merge volumes or shares")
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
			faults.Addf(limit.path, "too many devices: machine microvm supports %d %s, and the spec has %d", limit.room, limit.what, limit.have).
				Hintf("remove some, or set hypervisor to qemu")
		}
	}
	return faults
}

func (a *stratovirtArgs) add(words ...string) { a.argv = append(a.argv, words...) }

// machine returns the machine, with shared memory if virtiofsd maps it.
func (a *stratovirtArgs) machine() string {
	name := "microvm"
	if a.s.Arch == "aarch64" {
		name = "virt"
	}
	return name + ",mem-share=" + onOff(len(a.p.Shares) > 0)
}

// device returns the name of a device on the bus of the machine: virtio-mmio for microvm,
// and for virt a PCI bus, whose slots are assigned here as StratoVirt does not do so.
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

// interfaces adds the interfaces. Machine microvm creates them before it parses the number
// of queues, so they have one (machine/src/micro_common).
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
