package hypervisor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// kvmtool compiles for kvmtool (lkvm) as of August 2024, commit b48735e, which
// calls itself 3.18.0 as all before it: it has no releases. Options as in its
// builtin-run.c, disk/core.c, virtio/net.c and virtio/9p.c.
type kvmtool struct{}

// Limits of kvmtool.
const (
	// kvmtoolDiskLimit is MAX_DISK_IMAGES, kvm/disk-image.h.
	kvmtoolDiskLimit = 4
	// maxKvmtoolSocket is what sun_path leaves for HOME/.lkvm//NAME.sock.
	maxKvmtoolSocket = 107
)

// guest fills in what the guest is told, and returns its kernel's command line.
func (kvmtool) guest(s *spec.Spec, p *Plan, control *Control) (line string, err error) {
	p.Readiness = readiness(s, true, control, "")
	p.Shutdown, err = viaGuest(s, "kvmtool has neither a power button nor keys to press, and its own stop command ends it as a signal does", "")
	return kernelCommandLine(s, p, kvmtoolKernel(s)...), err
}

func (k kvmtool) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := programOf(s.Kvmtool.Package, "lkvm", "lkvm")
	name := kvmtoolName(s)
	// Below HOME, kvm-ipc.c.
	control := &Control{Method: "kvmtool", Socket: filepath.Join(".lkvm", name+".sock")}
	if s.Socket.Value == nil {
		control = nil // it is there all the same, and nobody uses it
	}
	line, err := k.guest(s, p, control)
	if err != nil {
		return err
	}
	p.KVM = KVMRequired
	p.Env = []string{"HOME=."}
	// Its serial port reads standard input, and takes an end for a character.
	p.HoldStdin = true
	p.StaleSockets = []string{filepath.Join(".lkvm", name+".sock")}
	p.StaleDirs = []string{".lkvm"}
	if s.Balloon {
		p.Balloon = kvmtoolBalloon(b, s, *control)
		if !p.Balloon.GuestTells {
			p.Notes = append(p.Notes, "kvmtool cannot be asked what its balloon has reached: newer kernels' drivers send more figures than it has room for")
		}
	}
	kvmtoolNotes(s, p)
	p.Argv = slices.Concat(
		[]string{program, "run", "--name", Literal(name), "-m", strconv.Itoa(s.Mem), "-c", strconv.Itoa(s.VCPU)},
		// Without, it adds root=/dev/vda to the command line and, where there is
		// neither a disk nor an initrd, a root directory of its own below HOME.
		[]string{"--nodefaults", "--console", "serial", "--rng", "-k", Literal(s.Kernel)},
		kvmtoolInitrd(s),
		[]string{"-p", line},
		kvmtoolDisks(s, p), kvmtoolShares(s), kvmtoolInterfaces(s, p),
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

// kvmtoolBalloon is how the balloon is set. kvmtool keeps room for ten figures of
// its guest's (virtio/balloon.c); guests of 2024 and later send sixteen, which
// overwrite what lies behind and leave its control socket deaf. Such a guest is
// never asked. Linux 6.8 still sends ten.
func kvmtoolBalloon(b *Builder, s *spec.Spec, c Control) *Control {
	c.Memory = s.Mem
	c.GuestTells = b.kernelBefore(s.Kernel, 6, 9)
	return &c
}

// kvmtoolName is the name that kvmtool's control socket has: the VM's, unless
// the path would not fit. Each VM has a HOME of its own, so a name for all does.
func kvmtoolName(s *spec.Spec) string {
	if len(s.Dir())+len("/.lkvm//.sock")+len(s.Name) > maxKvmtoolSocket {
		return "vm"
	}
	return s.Name
}

func (kvmtool) faults(_ *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(
		refuseCharacters(s),
		fixedSocket(s, "kvmtool has its own, .lkvm/NAME.sock in the state directory"),
		refuseBalloon(s),
		refuseReadiness(s, s.Socket.Value != nil),
	)
	disks := len(s.Volumes)
	if *s.StoreOnDisk {
		disks++
	}
	if disks > kvmtoolDiskLimit {
		with := ""
		if *s.StoreOnDisk {
			with = " with the store's"
		}
		faults.Addf("volumes", "kvmtool has room for %d disks, and the spec has %d%s; merge some", kvmtoolDiskLimit, disks, with)
	}
	users := 0
	for i, n := range s.Interfaces {
		if n.Type != "user" {
			continue
		}
		if users++; users > 1 {
			faults.Addf(fmt.Sprintf("interfaces[%d].type", i), "kvmtool has one user network at most; remove this one or make it a tap")
		}
	}
	for i, share := range s.Shares {
		switch share.SecurityModel {
		case "none", "passthrough":
		case "mapped", "mapped-file":
			faults.Addf(fmt.Sprintf("shares[%d].securityModel", i), "kvmtool keeps no owners beside the files; write none or passthrough, or take qemu, which has %s", share.SecurityModel)
		default:
			faults.Addf(fmt.Sprintf("shares[%d].securityModel", i), "%s", spec.Unknown(share.SecurityModel, []string{"none", "passthrough"}))
		}
	}
	return faults
}

// kernelLine is the command line as it is: with --nodefaults kvmtool adds nothing.
func (k kvmtool) kernelLine(_ *Builder, s *spec.Spec) (string, error) {
	return k.guest(s, &Plan{}, nil)
}

// kvmtoolKernel is what a guest needs to know of the machine, which has no ACPI:
// the words that kvmtool itself would add (x86/kvm.c). Its serial port is an
// 8250 on both architectures.
func kvmtoolKernel(s *spec.Spec) []string {
	words := []string{serialConsole(s), "reboot=k", "panic=-1"}
	if s.Arch != "x86_64" {
		return words
	}
	return append(words, "earlyprintk=serial", "noapic", "pci=conf1",
		"i8042.direct=1", "i8042.dumbkbd=1", "i8042.nopnp=1", "i8042.noaux=1")
}

func kvmtoolNotes(s *spec.Spec, p *Plan) {
	if s.Arch == "x86_64" {
		p.Notes = append(p.Notes, "kvmtool cannot turn its machine off: a guest that powers off halts and stays, so end it from within with reboot")
	}
	if s.Balloon && *s.DeflateOnOOM {
		p.Notes = append(p.Notes, "kvmtool's balloon does not give memory back by itself, as deflateOnOOM would have it")
	}
	noteMachineID(s, p)
}

func kvmtoolInitrd(s *spec.Spec) []string {
	if s.InitrdPath == "" {
		return nil
	}
	return []string{"-i", Literal(s.InitrdPath)}
}

// kvmtoolDisks: kvmtool locks nothing, and takes a file that begins as a qcow2 image
// for one (disk/core.c).
func kvmtoolDisks(s *spec.Spec, p *Plan) []string {
	keepLocks(p)
	probes(p)
	var out []string
	if *s.StoreOnDisk {
		out = append(out, "-d", Literal(s.StoreDisk)+",ro")
	}
	for _, v := range s.Volumes {
		disk := Literal(v.Image)
		if strings.HasPrefix(disk, "scsi:") || strings.HasPrefix(disk, "-") {
			disk = "./" + disk // neither a SCSI device's name nor an option
		}
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
// a descriptor of ours beside it would be a queue that nobody reads. It has
// vhost=1 too, and then drops the guest's MAC address: it offers only such
// features as vhost-net has, and that has none for the address.
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
			out = append(out, "-n", fmt.Sprintf("mode=tap,tapif=%s,guest_mac=%s", Literal(n.ID), n.MAC))
		}
	}
	for i := range p.Macvtaps {
		p.Macvtaps[i].Queues = 0
	}
	return out
}
