package hypervisor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/shell"
	"microvm/internal/spec"
)

// crosvm compiles for crosvm of 2025 and 2026, which has no releases. Its options are
// those of its src/crosvm/cmdline.rs.
type crosvm struct{}

func (crosvm) faults(_ *Builder, s *spec.Spec) spec.Faults {
	return slices.Concat(refuseCharacters(s), refuseDisplay(s), crosvmFaults(s), refuseBalloon(s), refuseReadiness(s, s.Socket.Value != nil))
}

func (crosvm) compile(_ *Builder, s *spec.Spec, p *Plan) error {
	program := programOf(s.Crosvm.Package, "crosvm", "crosvm")
	control := controlOf(s, "crosvm")
	if control != nil {
		control.Program = program
	}
	p.Readiness = readiness(s, true, control, "")
	p.KVM = KVMRequired
	p.HoldStdin = true
	var err error
	if p.Shutdown, err = crosvmShutdown(s, control); err != nil {
		return err
	}
	p.Argv = []string{program, "run", "--name", Literal(s.Name), "--mem", strconv.Itoa(s.Mem), "--cpus", strconv.Itoa(s.VCPU)}
	add := func(words ...string) { p.Argv = append(p.Argv, words...) }
	add("--serial", "type=stdout,hardware=serial,num=1,console=true,stdin=true")
	add("--params", crosvmLine(s, p))
	crosvmSandbox(s, p)
	if control != nil {
		add("--socket", Literal(control.Socket))
	}
	if s.Balloon {
		// It always offers VIRTIO_BALLOON_F_DEFLATE_ON_OOM, devices/src/virtio/balloon.rs.
		if !*s.DeflateOnOOM {
			p.Notes = append(p.Notes, "crosvm's balloon always returns memory to a guest that runs out of it, as if deflateOnOOM were true")
		}
		balloon := *control
		balloon.Memory = s.Mem
		p.Balloon = &balloon
		add("--balloon-page-reporting")
	} else {
		add("--no-balloon")
	}
	// Devices that other processes serve get their slots in the order of these options,
	// which is microvm.nix's.
	if s.Graphics.Enable {
		p.BeforeStart = joinLines(p.BeforeStart, gpuDevice(s, program))
		p.StaleSockets = append(p.StaleSockets, s.Graphics.Socket)
		add("--vhost-user", "type=gpu,socket="+Literal(s.Graphics.Socket))
	}
	crosvmDisks(s, p)
	crosvmShares(s, p)
	for _, n := range s.Interfaces {
		add("--net", crosvmInterface(n))
	}
	if s.Vsock.CID != nil {
		add("--vsock", strconv.FormatInt(*s.Vsock.CID, 10))
	}
	for _, d := range s.Devices {
		add("--vfio", "/sys/bus/pci/devices/"+d.Path+",iommu=viommu")
	}
	if s.InitrdPath != "" {
		add("--initrd", Literal(s.InitrdPath))
	}
	for _, word := range s.Crosvm.ExtraArgs {
		add(Literal(word))
	}
	add(Literal(s.Kernel))
	return nil
}

func crosvmLine(s *spec.Spec, p *Plan) string {
	return kernelCommandLine(s, p, serialConsole(s), "reboot=k", "panic=-1")
}

// kernelLine returns the command line with what crosvm puts before it
// (get_base_linux_cmdline, and the console of --serial).
func (crosvm) kernelLine(_ *Builder, s *spec.Spec) (string, error) {
	control := controlOf(s, "crosvm")
	p := &Plan{Readiness: readiness(s, true, control, "")}
	var err error
	p.Shutdown, err = crosvmShutdown(s, control)
	return "panic=-1 console=ttyS0 " + crosvmLine(s, p), err
}

// crosvmShutdown uses the power button, which the machine on aarch64 does not have
// (aarch64/src/lib.rs).
func crosvmShutdown(s *spec.Spec, control *Control) (Shutdown, error) {
	switch {
	case s.Arch != "x86_64":
		return viaGuest(s, "crosvm has a power button on x86_64 only", "")
	case control == nil:
		return viaGuest(s, "socket is null, so crosvm cannot be asked", "")
	}
	return Shutdown{Method: ShutdownPowerButton, Control: control, Why: "crosvm has a power button"}, nil
}

// crosvmFaults refuses relative paths of which crosvm's own sandbox requires absolute
// ones: that of its root and those of 9p shares, which it mounts.
func crosvmFaults(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if s.Crosvm.PivotRoot == nil {
		return nil
	}
	if root := *s.Crosvm.PivotRoot; !filepath.IsAbs(root) {
		faults.Addf("crosvm.pivotRoot", "invalid path %q: must be absolute", root).Hintf("set the absolute path of an empty directory")
	}
	for i, share := range s.Shares {
		if share.Proto == "9p" && !filepath.IsAbs(share.Source) {
			faults.Addf(fmt.Sprintf("shares[%d].source", i), "invalid path %q: must be absolute for a 9p share in crosvm's sandbox", share.Source).
				Hintf("set the absolute path, set proto to virtiofs, or leave crosvm.pivotRoot out")
		}
	}
	return faults
}

// crosvmSandbox turns on crosvm's own sandbox, one per device, if the spec has a
// directory for it. The sandbox creates namespaces, which the unit otherwise forbids.
// Without it, the unit's sandbox is the only one.
func crosvmSandbox(s *spec.Spec, p *Plan) {
	if s.Crosvm.PivotRoot == nil {
		p.Argv = append(p.Argv, "--disable-sandbox")
		p.Notes = append(p.Notes, "crosvm.pivotRoot is not set, so crosvm runs only in the unit's sandbox")
		return
	}
	p.Namespaces = true
	p.BeforeStart = joinLines(p.BeforeStart, "mkdir -p "+shell.Quote(*s.Crosvm.PivotRoot)+"\n")
	p.Argv = append(p.Argv, "--pivot-root", Literal(*s.Crosvm.PivotRoot))
}

// crosvmDisks adds the disks. crosvm locks them by flock(2), which no other hypervisor
// checks, and probes their types (disk/src/disk.rs).
func crosvmDisks(s *spec.Spec, p *Plan) {
	keepLocks(p)
	probes(p)
	if *s.StoreOnDisk {
		p.Argv = append(p.Argv, "--block", Literal(s.StoreDisk)+",ro=true")
	}
	for _, v := range s.Volumes {
		disk := fmt.Sprintf("%s,ro=%t,o_direct=%t", Literal(crosvmFirst(v.Image)), v.ReadOnly, v.Direct)
		if v.Shared {
			disk += ",lock=false"
		}
		if v.Serial != nil {
			disk += ",id=" + Literal(*v.Serial)
		}
		p.Argv = append(p.Argv, "--block", disk)
	}
}

// crosvmFirst returns a path as the first value of --block, whose key may be left out. A
// path with "=" would otherwise be parsed as a key with its value.
func crosvmFirst(path string) string {
	key, _, _ := strings.Cut(path, "=")
	if filepath.IsAbs(path) || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return path
	}
	return "./" + path
}

// crosvmShares adds the shares. crosvm asks virtiofsd for the tag, so that needs --tag.
func crosvmShares(s *spec.Spec, p *Plan) {
	for i := range p.Shares {
		p.Shares[i].PassTag = true
	}
	for _, share := range s.Shares {
		if share.Proto == "virtiofs" {
			p.Argv = append(p.Argv, "--vhost-user", "type=fs,socket="+Literal(*share.Socket.Value))
		} else {
			p.Argv = append(p.Argv, "--shared-dir", Literal(share.Source)+":"+share.Tag+":type=p9")
		}
	}
}

// crosvmInterface returns the options of an interface with one queue. For more queues,
// crosvm would configure a tap, which requires CAP_NET_ADMIN; of a macvtap it accepts
// one descriptor only.
func crosvmInterface(n spec.Interface) string {
	if n.Type == "macvtap" {
		return "tap-fd=" + MacvtapFD(n.ID, 0) + ",mac=" + n.MAC
	}
	return "tap-name=" + Literal(n.ID) + ",mac=" + n.MAC
}
