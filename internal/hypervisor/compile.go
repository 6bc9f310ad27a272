package hypervisor

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"microvm/internal/spec"
)

// Builder compiles specs.
type Builder struct {
	// Version returns the version of a hypervisor's program as MAJOR, MINOR. It
	// returns an error where the program cannot be asked; the oldest is then
	// assumed, as a nil Version does, because newer ones still know what it knew.
	Version func(program string) (major, minor int, err error)
	// GuestKernel returns the version of a kernel's image as MAJOR, MINOR, or an
	// error where the image does not tell; nil is as if none did.
	GuestKernel func(path string) (major, minor int, err error)
}

// kernelBefore says whether the guest's kernel is known to be older than that.
func (b *Builder) kernelBefore(path string, major, minor int) bool {
	if b.GuestKernel == nil {
		return false
	}
	haveMajor, haveMinor, err := b.GuestKernel(path)
	return err == nil && (haveMajor < major || haveMajor == major && haveMinor < minor)
}

// atLeast says whether the program is of that version or newer.
func (b *Builder) atLeast(program string, major, minor int) bool {
	if b.Version == nil {
		return false
	}
	haveMajor, haveMinor, err := b.Version(program)
	if err != nil {
		return false
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

// older says whether the program is known to be older than that version.
func (b *Builder) older(program string, major, minor int) bool {
	return b.atLeast(program, 0, 0) && !b.atLeast(program, major, minor)
}

// Compiler turns a valid spec, with its defaults set, into the parts of a plan
// that depend on the hypervisor. It returns spec.Faults for combinations that
// the hypervisor cannot run.
type Compiler interface {
	compile(b *Builder, s *spec.Spec, p *Plan) error
}

// compilers has one entry a hypervisor.
var compilers = map[string]Compiler{
	"alioth":           alioth{},
	"cloud-hypervisor": cloudHypervisor{},
	"crosvm":           crosvm{},
	"firecracker":      firecracker{},
	"kvmtool":          kvmtool{},
	"qemu":             qemu{},
	"stratovirt":       stratovirt{},
}

// Compile turns a valid spec into its plan. The error is spec.Faults where the
// hypervisor cannot do what the spec asks for.
func (b *Builder) Compile(s *spec.Spec) (*Plan, error) {
	faults, err := unsupported(s)
	if err != nil {
		return nil, err
	}
	c, ok := compilers[s.Hypervisor]
	if !ok {
		return nil, spec.Faults{{Path: "hypervisor", Message: fmt.Sprintf("%s cannot be compiled by this version; it can: %v", s.Hypervisor, slices.Sorted(maps.Keys(compilers)))}}
	}
	if len(faults) > 0 {
		return nil, Rules(s)
	}
	p, err := common(s)
	if err != nil {
		return nil, err
	}
	if err := c.compile(b, s, p); err != nil {
		return nil, err
	}
	for _, w := range s.Warnings() {
		p.Notes = append(p.Notes, "warning: "+w)
	}
	return p, nil
}

// Rules are those rules of a spec's hypervisor that can be told of a spec that is
// not valid yet, for spec.ParseFile; Compile has the others.
func Rules(s *spec.Spec) spec.Faults {
	faults, err := unsupported(s)
	if err != nil {
		return nil // the hypervisor's name is at fault, which the spec says itself
	}
	if s.Hypervisor == "qemu" {
		faults = append(faults, qemuFaults(s)...)
	}
	return faults
}

// common fills in what does not depend on the hypervisor.
func common(s *spec.Spec) (*Plan, error) {
	table, err := Table()
	if err != nil {
		return nil, err
	}
	own := table[s.Hypervisor]
	p := &Plan{
		Version:    PlanVersion,
		Name:       s.Name,
		Hypervisor: s.Hypervisor,
		Arch:       s.Arch,
		User:       deref(s.User),
		PreStart:   s.PreStart,
		VsockCID:   s.Vsock.CID,
	}
	if *s.PrettyProcnames {
		p.ProcessName = "microvm@" + s.Name
	}
	p.ExtraArgsScript = deref(s.ExtraArgsScript)
	if s.Socket.Value != nil {
		p.StaleSockets = append(p.StaleSockets, *s.Socket.Value)
	}
	p.Files = files(s)
	queues := 1
	if slices.Contains(own.TapMultiQueue, s.Arch) {
		queues = s.VCPU
	}
	for _, n := range s.Interfaces {
		switch n.Type {
		case "tap":
			p.Taps = append(p.Taps, Tap{ID: n.ID, VnetHdr: true, MultiQueue: queues > 1})
		case "macvtap":
			p.Macvtaps = append(p.Macvtaps, Macvtap{ID: n.ID, MAC: n.MAC, Link: n.Macvtap.Link, Mode: n.Macvtap.Mode, Queues: queues})
		case "bridge":
			p.Bridge = true
		}
	}
	for _, v := range s.Volumes {
		p.Volumes = append(p.Volumes, volume(v))
	}
	for _, d := range s.Devices {
		if d.Bus == "pci" {
			p.PCI = append(p.PCI, PCI{Address: d.Path})
		} else {
			p.USB = append(p.USB, d.Path)
		}
	}
	p.Shares = shares(s)
	if s.RegisterWithMachined {
		id := s.MachineID.Or(spec.DefaultMachineID(s.Name))
		p.Machined = &Machined{UUID: id}
	}
	return p, nil
}

func files(s *spec.Spec) []File {
	out := []File{{Role: "kernel", Path: s.Kernel}}
	if s.InitrdPath != "" {
		out = append(out, File{Role: "initrdPath", Path: s.InitrdPath})
	}
	if *s.StoreOnDisk {
		out = append(out, File{Role: "storeDisk", Path: s.StoreDisk})
	}
	for _, name := range slices.Sorted(maps.Keys(s.CredentialFiles)) {
		out = append(out, File{Role: "credentialFiles." + name, Path: s.CredentialFiles[name]})
	}
	return out
}

func volume(v spec.Volume) Volume {
	return Volume{
		Image:         v.Image,
		SizeMiB:       v.Size,
		AutoCreate:    *v.AutoCreate,
		ReadOnly:      v.ReadOnly,
		FSType:        v.FSType,
		Label:         deref(v.Label),
		MkfsExtraArgs: v.MkfsExtraArgs,
		ImageType:     v.ImageType,
	}
}

func shares(s *spec.Spec) []Share {
	var out []Share
	for _, share := range s.Shares {
		if share.Proto != "virtiofs" {
			continue
		}
		out = append(out, Share{
			Tag:              share.Tag,
			Source:           share.Source,
			Socket:           *share.Socket.Value,
			SocketGroup:      s.Virtiofsd.Group.Or(""),
			Virtiofsd:        program(s.Virtiofsd.Package, "virtiofsd", ""),
			ReadOnly:         share.ReadOnly,
			Cache:            share.Cache,
			PosixACL:         *share.PosixACL,
			InodeFileHandles: s.Virtiofsd.InodeFileHandles.Or(""),
			ThreadPoolNProc:  s.Virtiofsd.ThreadPoolSize.NProc,
			ThreadPoolSize:   s.Virtiofsd.ThreadPoolSize.Count,
			ExtraArgs:        slices.Concat(s.Virtiofsd.ExtraArgs, share.ExtraArgs),
		})
	}
	return out
}

// program is the path of a package's program, or fallback, a name to be looked
// up at the start, where no package is given.
func program(pkg, name, fallback string) string {
	if pkg == "" {
		return fallback
	}
	return filepath.Join(pkg, "bin", name)
}

// readiness chooses what READY=1 means, and says why.
func readiness(s *spec.Spec, guest bool, control *Control, vsockSocket string) (Readiness, error) {
	byGuest := Readiness{Mode: ReadyGuest, VsockSocket: vsockSocket}
	byVMM := Readiness{Mode: ReadyVMM, Control: control}
	switch {
	case s.Readiness == ReadyGuest && s.Vsock.CID == nil:
		return Readiness{}, spec.Faults{{Path: "readiness", Message: "\"guest\" needs vsock.cid; set one, or readiness to \"vmm\""}}
	case s.Readiness == ReadyVMM && control == nil:
		return Readiness{}, spec.Faults{{Path: "readiness", Message: "\"vmm\" needs the control socket; set socket, or readiness to \"none\""}}
	case s.Readiness == ReadyGuest:
		byGuest.Why = "the spec says so"
		return byGuest, nil
	case s.Readiness == ReadyVMM:
		byVMM.Why = "the spec says so"
		return byVMM, nil
	case s.Readiness == ReadyNone:
		return Readiness{Mode: ReadyNone, Why: "the spec says so"}, nil
	case guest && s.Vsock.CID != nil:
		byGuest.Why = "vsock.cid is set and " + s.Hypervisor + " can tell the guest where to report"
		return byGuest, nil
	case control != nil:
		byVMM.Why = "no vsock.cid is set, so the hypervisor's control socket answers"
		if s.Vsock.CID != nil {
			byVMM.Why = s.Hypervisor + " cannot tell the guest where to report, so its control socket answers"
		}
		return byVMM, nil
	}
	return Readiness{Mode: ReadyNone, Why: "there is neither a vsock.cid nor a control socket"}, nil
}

// asFaults joins faults and other errors; nil where there are none.
func asFaults(faults spec.Faults, err error) error {
	var more spec.Faults
	if errors.As(err, &more) {
		return append(faults, more...).Err()
	}
	if err != nil {
		return err
	}
	return faults.Err()
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
