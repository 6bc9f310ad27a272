package hypervisor

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// Builder compiles specs into plans. Its zero value knows no versions and assumes the
// oldest ones.
type Builder struct {
	// Version returns the version of a hypervisor's program as MAJOR, MINOR. If it
	// returns an error, or is nil, the oldest version is assumed, as newer ones still
	// have its options.
	Version func(program string) (major, minor int, err error)
	// GuestKernel returns the version of a kernel's image as MAJOR, MINOR, or an error
	// if the image has none. A nil GuestKernel means that no image has one.
	GuestKernel func(path string) (major, minor int, err error)
	// Seccomp reports whether a QEMU was built with its seccomp filter. If it returns
	// an error, or is nil, the filter is assumed.
	Seccomp func(program string) (bool, error)

	// asked are the versions on which decisions of the current compilation depend; nil
	// keeps no record.
	asked *Versions
}

// kernelBefore reports whether the guest's kernel is known to be older than that version.
func (b *Builder) kernelBefore(path string, major, minor int) bool {
	if b.GuestKernel == nil {
		return false
	}
	haveMajor, haveMinor, err := b.GuestKernel(path)
	return err == nil && (haveMajor < major || haveMajor == major && haveMinor < minor)
}

// atLeast reports whether the program is known to have that version or a newer one.
func (b *Builder) atLeast(program string, major, minor int) bool {
	if b.Version == nil {
		b.asked.unknown()
		return false
	}
	haveMajor, haveMinor, err := b.Version(program)
	if err != nil {
		b.asked.unknown()
		return false
	}
	have := haveMajor > major || haveMajor == major && haveMinor >= minor
	b.asked.answer(version{major, minor}, have)
	return have
}

// older reports whether the program is known to be older than that version.
func (b *Builder) older(program string, major, minor int) bool {
	return b.atLeast(program, 0, 0) && !b.atLeast(program, major, minor)
}

// backend compiles for one hypervisor.
type backend interface {
	// faults returns what the hypervisor does not support, in addition to the table of
	// capabilities. The spec has its defaults, but may be invalid.
	faults(b *Builder, s *spec.Spec) spec.Faults
	// compile sets the parts of a plan that depend on the hypervisor. The spec has no
	// faults.
	compile(b *Builder, s *spec.Spec, p *Plan) error
	// kernelLine returns the guest's command line, with placeholders and with what the
	// hypervisor adds to it. The spec may be invalid.
	kernelLine(b *Builder, s *spec.Spec) (string, error)
}

// backends has one entry per hypervisor.
var backends = map[string]backend{
	"alioth":           alioth{},
	"cloud-hypervisor": cloudHypervisor{},
	"crosvm":           crosvm{},
	"firecracker":      firecracker{},
	"kvmtool":          kvmtool{},
	"qemu":             qemu{},
	"stratovirt":       stratovirt{},
}

// Compile turns a valid spec into its plan. It returns spec.Faults if the hypervisor does
// not support what the spec needs.
func (b *Builder) Compile(s *spec.Spec) (*Plan, error) {
	c, ok := backends[s.Hypervisor]
	if !ok {
		var faults spec.Faults
		faults.AddUnknown("hypervisor", s.Hypervisor, slices.Sorted(maps.Keys(backends)))
		return nil, faults
	}
	b = &Builder{Version: b.Version, GuestKernel: b.GuestKernel, Seccomp: b.Seccomp, asked: &Versions{}}
	faults, err := b.faults(s)
	if err == nil {
		err = faults.Err()
	}
	if err != nil {
		return nil, err
	}
	p, err := common(s)
	if err != nil {
		return nil, err
	}
	if err := c.compile(b, s, p); err != nil {
		return nil, err
	}
	b.asked.record(p)
	if b.asked.Unknown && b.Version != nil {
		p.Notes = append(p.Notes, "warning: "+p.UnknownVersion()+" (build the package where the program is installed)")
	}
	for _, w := range s.Warnings() {
		p.Notes = append(p.Notes, "warning: "+w)
	}
	return p, nil
}

// common returns a plan with the parts that do not depend on the hypervisor.
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
		System:     s.System,
		Scripts:    s.BinScripts,
		User:       deref(s.User),
		MemMiB:     s.Mem,
		VCPU:       s.VCPU,
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
	if s.HugepageMem {
		p.HugePagesMiB = s.Mem
	}
	p.Files = files(s)
	noteCut(s, p, own)
	p.addInterfaces(s, countedQueues(s, own))
	for _, f := range s.ForwardPorts {
		if f.From == "host" {
			p.HostPorts = append(p.HostPorts, HostPort{Proto: f.Proto, Address: f.Host.Address, Port: f.Host.Port})
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
	for _, share := range s.Shares {
		if share.Proto == "9p" {
			p.NinePShares = append(p.NinePShares, NinePShare{Tag: share.Tag, Source: share.Source, ReadOnly: share.ReadOnly, SecurityModel: share.SecurityModel})
		}
	}
	p.Devices = devices(s, own)
	if s.RegisterWithMachined {
		id := s.MachineID.Or(spec.DefaultMachineID(s.Name))
		p.Machined = &Machined{UUID: id}
	}
	return p, nil
}

// addInterfaces adds the network interfaces, and the taps and macvtaps that the host has
// to create for them, with that number of queues.
func (p *Plan) addInterfaces(s *spec.Spec, queues int) {
	for _, n := range s.Interfaces {
		p.Interfaces = append(p.Interfaces, Interface{Type: n.Type, ID: n.ID, MAC: strings.ToLower(n.MAC), Bridge: deref(n.Bridge)})
		switch n.Type {
		case "tap":
			p.Taps = append(p.Taps, Tap{ID: n.ID, VnetHdr: true, MultiQueue: queues > 1})
		case "macvtap":
			p.Macvtaps = append(p.Macvtaps, Macvtap{ID: n.ID, MAC: n.MAC, Link: n.Macvtap.Link, Mode: n.Macvtap.Mode, Queues: queues})
		case "bridge":
			p.Bridge = true
		}
	}
}

// Device nodes of the host that exist once a kernel module is loaded.
const (
	// VhostVsock provides a guest's vsock.
	VhostVsock = "/dev/vhost-vsock"
	// VhostNet processes the packets of a tap in the kernel.
	VhostNet = "/dev/vhost-net"
)

// devices returns the device nodes that the hypervisor opens itself.
func devices(s *spec.Spec, own Capabilities) []string {
	var out []string
	if s.Vsock.CID != nil && own.Vsock == "vhost" {
		out = append(out, VhostVsock)
	}
	if slices.ContainsFunc(s.Interfaces, func(n spec.Interface) bool { return n.Type == "tap" && n.Tap.Vhost }) {
		out = append(out, VhostNet)
	}
	return out
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
		Shared:        v.Shared,
	}
}

// keepLocks sets Volume.KeepLock of all volumes, for a hypervisor that does not lock its
// disks, or not in a way that other hypervisors see.
func keepLocks(p *Plan) {
	for i := range p.Volumes {
		p.Volumes[i].KeepLock = true
	}
}

// probes sets Volume.Probed of all volumes, for a hypervisor that detects the type of a
// disk by its content.
func probes(p *Plan) {
	for i := range p.Volumes {
		p.Volumes[i].Probed = true
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
			Virtiofsd:        programOf(s.Virtiofsd.Package, "virtiofsd", ""),
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

// programOf returns the path of a package's program, or, if pkg is empty, fallback: a name
// that is looked up when the VM starts.
func programOf(pkg, name, fallback string) string {
	if pkg == "" {
		return fallback
	}
	return filepath.Join(pkg, "bin", name)
}

// readiness chooses what READY=1 means for the VM. guest reports whether the hypervisor
// can tell the guest where to report; control may be nil.
func readiness(s *spec.Spec, guest bool, control *Control, vsockSocket string) Readiness {
	byGuest := Readiness{Mode: ReadyGuest, VsockSocket: vsockSocket}
	byVMM := Readiness{Mode: ReadyVMM, Control: control}
	switch {
	case s.Readiness == ReadyGuest:
		byGuest.Why = "set in the spec"
		return byGuest
	case s.Readiness == ReadyVMM:
		byVMM.Why = "set in the spec"
		return byVMM
	case s.Readiness == ReadyNone:
		return Readiness{Mode: ReadyNone, Why: "set in the spec"}
	case guest && s.Vsock.CID != nil:
		byGuest.Why = "vsock.cid is set and " + s.Hypervisor + " can tell the guest where to report"
		return byGuest
	case control != nil:
		byVMM.Why = "no vsock.cid is set, so the hypervisor's control socket answers"
		if s.Vsock.CID != nil {
			byVMM.Why = s.Hypervisor + " cannot tell the guest where to report, so its control socket answers"
		}
		return byVMM
	}
	return Readiness{Mode: ReadyNone, Why: "there is neither a vsock.cid nor a control socket"}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
