package hypervisor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// kvmtool compiles for kvmtool (lkvm) of August 2024, commit b48735e. It has no releases;
// all commits report version 3.18.0. Its options are those of builtin-run.c,
// disk/core.c, virtio/net.c and virtio/9p.c.
type kvmtool struct{}

// Limits of kvmtool.
const (
	// kvmtoolDiskLimit is MAX_DISK_IMAGES, kvm/disk-image.h.
	kvmtoolDiskLimit = 4
	// maxKvmtoolSocket is the maximum length of HOME/.lkvm//NAME.sock, by sun_path.
	maxKvmtoolSocket = 107
)

// guest sets the plan's readiness and shutdown, and returns the kernel's command line.
func (kvmtool) guest(s *spec.Spec, p *Plan, control *Control) (line string, err error) {
	p.Readiness = readiness(s, true, control, "")
	p.Shutdown, err = viaGuest(s, "kvmtool has neither a power button nor a keyboard, and its own stop command acts like a signal", "")
	return kernelCommandLine(s, p, kvmtoolKernel(s)...), err
}

func (k kvmtool) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := programOf(s.Kvmtool.Package, "lkvm", "lkvm")
	name := kvmtoolName(s)
	// Below HOME, kvm-ipc.c.
	control := &Control{Method: "kvmtool", Socket: filepath.Join(".lkvm", name+".sock")}
	if s.Socket.Value == nil {
		control = nil // kvmtool creates the socket anyway, but it is not used
	}
	line, err := k.guest(s, p, control)
	if err != nil {
		return err
	}
	p.KVM = KVMRequired
	p.Env = []string{"HOME=."}
	// Its serial port reads standard input, and treats the end as a character.
	p.HoldStdin = true
	p.StaleSockets = []string{filepath.Join(".lkvm", name+".sock")}
	p.StaleDirs = []string{".lkvm"}
	if s.Balloon {
		p.Balloon = kvmtoolBalloon(b, s, *control)
		if !p.Balloon.GuestTells {
			p.Notes = append(p.Notes, "kvmtool cannot report the size of its balloon with the driver of newer guest kernels")
		}
	}
	kvmtoolNotes(s, p)
	p.Argv = slices.Concat(
		[]string{program, "run", "--name", Literal(name), "-m", strconv.Itoa(s.Mem), "-c", strconv.Itoa(s.VCPU)},
		// Without --nodefaults it adds root=/dev/vda to the command line and, with
		// neither a disk nor an initrd, uses its own root directory below HOME.
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

// kvmtoolBalloon returns the control of the balloon. kvmtool has room for ten statistics of
// the guest (virtio/balloon.c). Guests since 2024 send sixteen, which overwrite the memory
// behind them, and the control socket no longer answers. So statistics are requested only
// from kernels that are known to be older; Linux 6.8 still sends ten.
func kvmtoolBalloon(b *Builder, s *spec.Spec, c Control) *Control {
	c.Memory = s.Mem
	c.GuestTells = b.kernelBefore(s.Kernel, 6, 9)
	return &c
}

// kvmtoolName returns the name of kvmtool's control socket: the VM's, or a short one if
// the path would be too long. HOME is the VM's own, so a short one can be the same for all.
func kvmtoolName(s *spec.Spec) string {
	if len(s.Dir())+len("/.lkvm//.sock")+len(s.Name) > maxKvmtoolSocket {
		return "vm"
	}
	return s.Name
}

func (kvmtool) faults(_ *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(
		refuseCharacters(s),
		fixedSocket(s, "kvmtool always uses .lkvm/NAME.sock in the state directory"),
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
		faults.Addf("volumes", "too many disks: kvmtool supports %d, and the spec has %d%s", kvmtoolDiskLimit, disks, with).Hintf("merge volumes")
	}
	users := 0
	for i, n := range s.Interfaces {
		if n.Type != "user" {
			continue
		}
		if users++; users > 1 {
			faults.Addf(fmt.Sprintf("interfaces[%d].type", i), "kvmtool supports only one user network").
				Hintf("remove this one, or make it a tap")
		}
	}
	for i, share := range s.Shares {
		switch share.SecurityModel {
		case "none", "passthrough":
		case "mapped", "mapped-file":
			faults.Addf(fmt.Sprintf("shares[%d].securityModel", i), "kvmtool does not support %s", share.SecurityModel).
				Hintf("set it to none or passthrough, or set hypervisor to qemu")
		default:
			faults.AddUnknown(fmt.Sprintf("shares[%d].securityModel", i), share.SecurityModel, []string{"none", "passthrough"})
		}
	}
	return faults
}

// kernelLine returns the command line unchanged: with --nodefaults kvmtool adds nothing.
func (k kvmtool) kernelLine(_ *Builder, s *spec.Spec) (string, error) {
	return k.guest(s, &Plan{}, nil)
}

// kvmtoolKernel returns the kernel's arguments for the machine, which has no ACPI: those
// that kvmtool itself would add (x86/kvm.c). Its serial port is an 8250 on both
// architectures.
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
		p.Notes = append(p.Notes, "kvmtool cannot turn its machine off: a guest that powers off only halts, so shut it down with reboot")
	}
	if s.Balloon && *s.DeflateOnOOM {
		p.Notes = append(p.Notes, "kvmtool's balloon ignores deflateOnOOM: it does not return memory by itself")
	}
	noteMachineID(s, p)
}

func kvmtoolInitrd(s *spec.Spec) []string {
	if s.InitrdPath == "" {
		return nil
	}
	return []string{"-i", Literal(s.InitrdPath)}
}

// kvmtoolDisks adds the disks. kvmtool does not lock them, and treats a file that begins
// like a qcow2 image as one (disk/core.c).
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
			disk = "./" + disk // or it would be a SCSI device's name or an option
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

// kvmtoolInterfaces adds the interfaces. It names macvtaps by their device, which kvmtool
// opens itself; an inherited descriptor would be a queue that is never read. vhost=1 is
// not used: kvmtool then offers only the features of vhost-net, which has none for the
// MAC address, and the guest would get another address.
func kvmtoolInterfaces(s *spec.Spec, p *Plan) []string {
	if len(s.Interfaces) == 0 {
		// Otherwise it adds one by itself.
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
