package hypervisor

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

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
	// Seccomp says whether a QEMU was built with its seccomp filter, or an error
	// where it cannot be asked; nil is as if each was.
	Seccomp func(program string) (bool, error)

	// asked is what decisions of the present compilation depend on; nil keeps none.
	asked *Versions
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

// older says whether the program is known to be older than that version.
func (b *Builder) older(program string, major, minor int) bool {
	return b.atLeast(program, 0, 0) && !b.atLeast(program, major, minor)
}

// backend knows one hypervisor.
type backend interface {
	// faults are what the hypervisor cannot do, beside what the table of
	// capabilities says, of a spec that has its defaults and need not be valid.
	faults(b *Builder, s *spec.Spec) spec.Faults
	// compile turns a spec without faults into the parts of a plan that depend on
	// the hypervisor.
	compile(b *Builder, s *spec.Spec, p *Plan) error
	// kernelLine is the guest's command line, with its placeholders and with what
	// the hypervisor adds to it; the spec need not be valid.
	kernelLine(b *Builder, s *spec.Spec) (string, error)
}

// backends has one entry a hypervisor.
var backends = map[string]backend{
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
	c, ok := backends[s.Hypervisor]
	if !ok {
		return nil, spec.Faults{{Path: "hypervisor", Message: fmt.Sprintf("%s cannot be compiled by this version; it can: %v", s.Hypervisor, slices.Sorted(maps.Keys(backends)))}}
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
		p.Notes = append(p.Notes, "warning: "+p.UnknownVersion()+"; build it again where the program is installed")
	}
	for _, w := range s.Warnings() {
		p.Notes = append(p.Notes, "warning: "+w)
	}
	return p, nil
}

// Rules are the rules of a spec's hypervisor, for spec.ParseFile: the spec need
// not be valid otherwise. Of those that depend on the hypervisor's version it has
// the newest one's; Compile asks the program.
func Rules(s *spec.Spec) spec.Faults {
	newest := &Builder{Version: func(string) (major, minor int, err error) { return math.MaxInt, 0, nil }}
	faults, err := newest.faults(s)
	if err != nil {
		return nil // the hypervisor's name is at fault, which the spec says itself
	}
	return faults
}

// faults are what the hypervisor has not, and what it cannot do with what it has.
func (b *Builder) faults(s *spec.Spec) (spec.Faults, error) {
	faults, err := unsupported(s)
	if err != nil {
		return nil, err
	}
	table, err := Table()
	if err != nil {
		return nil, err
	}
	more := slices.Concat(b.limits(s, table[s.Hypervisor]), backends[s.Hypervisor].faults(b, s), b.refuseLongLine(s))
	for _, f := range more {
		if !slices.ContainsFunc(faults, func(have spec.Fault) bool { return have.Path == f.Path }) {
			faults = append(faults, f)
		}
	}
	return faults, nil
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

// addInterfaces adds the network interfaces, and what the host has to make for them.
// queues is how many a tap or macvtap has.
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

// Nodes of the host's that a module makes.
const (
	// VhostVsock makes a guest's vsock.
	VhostVsock = "/dev/vhost-vsock"
	// VhostNet makes a tap fast.
	VhostNet = "/dev/vhost-net"
)

// devices are the nodes that the hypervisor opens by itself.
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

// keepLocks is for a hypervisor that takes no lock of its own on its disks, or one
// that the others do not see.
func keepLocks(p *Plan) {
	for i := range p.Volumes {
		p.Volumes[i].KeepLock = true
	}
}

// probes is for a hypervisor that takes the type of a disk from the disk.
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

// programOf returns the path of a package's program, or fallback, a name to be looked
// up at the start, where no package is given.
func programOf(pkg, name, fallback string) string {
	if pkg == "" {
		return fallback
	}
	return filepath.Join(pkg, "bin", name)
}

// refuseReadiness refuses a readiness that nobody could report.
func refuseReadiness(s *spec.Spec, hasControl bool) spec.Faults {
	other := ReadyVMM
	if !hasControl {
		other = ReadyNone
	}
	var faults spec.Faults
	switch {
	case s.Readiness == ReadyGuest && s.Vsock.CID == nil:
		faults.Addf("readiness", "\"guest\" needs vsock.cid; set one, or readiness to %q", other)
	case s.Readiness == ReadyVMM && s.Hypervisor == "alioth":
		faults.Addf("readiness", "\"vmm\" needs a control socket, and alioth has none; set readiness to \"none\", or to \"guest\" with vsock.cid")
	case s.Readiness == ReadyVMM && !hasControl:
		faults.Addf("readiness", "\"vmm\" needs the control socket; leave socket out for the default one, or set readiness to \"none\"")
	case s.Readiness == "", s.Readiness == ReadyGuest, s.Readiness == ReadyVMM, s.Readiness == ReadyNone:
	default:
		faults.Addf("readiness", "%s", spec.Unknown(s.Readiness, slices.Compact([]string{ReadyGuest, other, ReadyNone})))
	}
	return faults
}

// refuseBalloon refuses a balloon that nobody could set.
func refuseBalloon(s *spec.Spec) spec.Faults {
	if !s.Balloon || s.Socket.Value != nil {
		return nil
	}
	return spec.Faults{{Path: "balloon", Message: "is set through the control socket; leave socket out for the default one"}}
}

// WhyNoBalloon says of a VM whose balloon cannot be set why that is, and what to
// do where something can be done.
func WhyNoBalloon(hypervisor string) string {
	table, err := Table()
	own, known := table[hypervisor]
	switch {
	case err != nil || !known || own.Balloon && own.Control != "":
		return "has no balloon; set balloon to true in its spec"
	case own.Balloon:
		return "runs under " + hypervisor + ", which has no way to set a balloon; with another hypervisor it can be set"
	}
	return "has no balloon, for it runs under " + hypervisor + ", which has none; with another hypervisor it can have one"
}

// readiness chooses what READY=1 means, and says why.
func readiness(s *spec.Spec, guest bool, control *Control, vsockSocket string) Readiness {
	byGuest := Readiness{Mode: ReadyGuest, VsockSocket: vsockSocket}
	byVMM := Readiness{Mode: ReadyVMM, Control: control}
	switch {
	case s.Readiness == ReadyGuest:
		byGuest.Why = "the spec says so"
		return byGuest
	case s.Readiness == ReadyVMM:
		byVMM.Why = "the spec says so"
		return byVMM
	case s.Readiness == ReadyNone:
		return Readiness{Mode: ReadyNone, Why: "the spec says so"}
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
