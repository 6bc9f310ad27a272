package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
	"microvm/internal/spec"
)

// Package is an open runner package. All its files are read through the open
// directory, so that what was checked is what is read. Close it after use.
type Package struct {
	dir  *os.File
	path string
	// trusted packages are root's, down to each file that is read.
	trusted bool
	// asBuilt says to go by the plan whatever the package's programs are.
	asBuilt bool
}

// Open opens the package at path without asking who could have changed it: for
// what people do by hand with a package of their own.
func Open(path string) (*Package, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open runner package %s: %w", path, err)
	}
	return &Package{dir: os.NewFile(uintptr(fd), path), path: path}, nil
}

// Dir is the package's path: absolute, without links, where it was opened by
// OpenTrusted, else as it was given.
func (p *Package) Dir() string { return p.path }

// SetDir gives the package another path that leads to it, by which it is known to
// those who wrote it down.
func (p *Package) SetDir(path string) { p.path = path }

// AsBuilt has the plan count, also where somebody has put another program in the
// place of one that came with it.
func (p *Package) AsBuilt() { p.asBuilt = true }

// Permanent reports that no retry helps, to package exit.
func (*UntrustedError) Permanent() bool { return true }

// Close closes the package.
func (p *Package) Close() error { return p.dir.Close() }

// Plan returns runner.json, or, for a package without one, a plan made from
// the text files. Every name in it is validated.
func (p *Package) Plan() (*hypervisor.Plan, error) {
	data, err := p.read(planFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p.foreignPlan()
	}
	if err != nil {
		return nil, err
	}
	plan, err := decodePlan(data)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", p.path, planFile, err)
	}
	if plan.System == "" {
		plan.System = p.system() // a package of before has it as a link only
	}
	if p.asBuilt || plan.Programs == nil {
		return plan, nil
	}
	return plan, p.heed(plan)
}

// heed makes a plan run the programs that somebody has put in the place of those
// that were written with it. Root only looks at them.
func (p *Package) heed(plan *hypervisor.Plan) error {
	run, err := p.changed(RunProgram, plan.Programs[RunProgram])
	if err != nil {
		return err
	}
	shutdown, err := p.changed(ShutdownProgram, plan.Programs[ShutdownProgram])
	if err != nil {
		return err
	}
	if run && p.exists(RunProgram) {
		plan.Foreign, plan.Argv, plan.Last, plan.Landlock = true, []string{RunProgram}, 0, nil
		plan.Readiness = hypervisor.Readiness{Mode: hypervisor.ReadyNone, Why: "the package's " + RunProgram + " is not what microvm build wrote"}
		plan.Notes = append(plan.Notes, RunProgram+" is not what microvm build wrote; it runs in place of the plan")
	}
	switch {
	case !shutdown:
	case p.exists(ShutdownProgram):
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownScript, Why: "the package's " + ShutdownProgram + " is not what microvm build wrote"}
	default:
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownNone, Why: "somebody took " + ShutdownProgram + " out of the package"}
	}
	return nil
}

// changed says whether a program is another than the one of that digest; empty is
// none. One that is a link out of the package is another.
func (p *Package) changed(name, want string) (bool, error) {
	f, err := p.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return want != "" || p.exists(name), nil // which a dangling link does as well
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP), errors.Is(err, safepath.ErrNotRegular):
		return true, nil
	case err != nil:
		return false, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at %s/%s: %w", p.path, name, err)
	}
	if info.Size() > maxFile {
		return true, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return false, fmt.Errorf("read %s/%s: %w", p.path, name, err)
	}
	return digest(data) != want, nil
}

// decodePlan reads and validates a plan.
func decodePlan(data []byte) (*hypervisor.Plan, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("no valid plan: %w; build the package again", err)
	}
	if version.Version > hypervisor.PlanVersion {
		return nil, fmt.Errorf("the plan has format %d and this program knows %d; update microvm on this host, or build the package with the version here",
			version.Version, hypervisor.PlanVersion)
	}
	var written storedPlan
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&written); err != nil {
		return nil, fmt.Errorf("no valid plan: %w; build the package again", err)
	}
	plan := written.current()
	if plan.Version < 1 || len(plan.Argv) == 0 || plan.Argv[0] == "" {
		return nil, errors.New("the plan has no version or no command line; build the package again")
	}
	if plan.Last < 0 || plan.Last >= len(plan.Argv) {
		return nil, fmt.Errorf("the plan has %d last arguments of %d; build the package again", plan.Last, len(plan.Argv))
	}
	if err := validate(plan); err != nil {
		return nil, fmt.Errorf("%w; build the package again", err)
	}
	return plan, nil
}

// validate checks every name that a root helper or the launcher acts on.
func validate(p *hypervisor.Plan) error {
	var faults spec.Faults
	check := func(what string, err error) {
		if err != nil {
			faults.Addf(what, "%v", err)
		}
	}
	seen := map[string]bool{}
	once := func(what, name string) {
		if seen[what+" "+name] {
			faults.Addf(what, "%q is there twice; leave one out", name)
		}
		seen[what+" "+name] = true
	}
	if !p.Foreign {
		check("name", spec.ValidateVMName(p.Name))
	}
	// It is printed, and no word of it may be a terminal's.
	check("hypervisor", spec.ValidateWord("hypervisor", p.Hypervisor))
	if p.System != "" && (!filepath.IsAbs(p.System) || strings.ContainsAny(p.System, "\x00\n")) {
		faults.Addf("system", "%q is not an absolute path", p.System)
	}
	for _, n := range p.Interfaces {
		if !slices.Contains(interfaceTypes, n.Type) {
			faults.Addf("interface", "unknown type %q; known are %s", n.Type, strings.Join(interfaceTypes, ", "))
		}
		if n.ID != "" {
			check("interface", spec.ValidateInterfaceLabel(n.ID))
		}
		if n.MAC != "" {
			check("interface "+n.ID, spec.ValidateMAC(n.MAC))
		}
		if n.Bridge != "" {
			check("bridge", spec.ValidateInterfaceName(n.Bridge))
		}
	}
	for _, t := range p.Taps {
		check("tap interface", spec.ValidateInterfaceName(t.ID))
		once("interface", t.ID)
	}
	for _, m := range p.Macvtaps {
		check("macvtap interface", spec.ValidateInterfaceName(m.ID))
		once("interface", m.ID)
		check("macvtap link", spec.ValidateInterfaceName(m.Link))
		check("macvtap "+m.ID, spec.ValidateMAC(m.MAC))
		if !slices.Contains(macvtapModes, m.Mode) {
			faults.Addf("macvtap "+m.ID, "mode %q is not possible; it is one of %s", m.Mode, strings.Join(macvtapModes, ", "))
		}
		if m.Queues < 0 || m.Queues > 256 {
			faults.Addf("macvtap "+m.ID, "%d queues are not possible; a macvtap has 1 to 256", m.Queues)
		}
	}
	for _, d := range p.PCI {
		check("PCI device", spec.ValidatePCIAddress(d.Address))
		once("PCI device", d.Address)
	}
	for _, s := range p.Shares {
		check("share", spec.ValidateTag(s.Tag))
		once("share", s.Tag)
		// Where a whole path leads is looked at by those who know the VM's directory.
		if !p.Foreign || !filepath.IsAbs(s.Socket) {
			check("share "+s.Tag+": socket", spec.ValidateInside(s.Socket))
		}
		once("socket", s.Socket)
		if s.Virtiofsd != "" && !filepath.IsAbs(s.Virtiofsd) {
			faults.Addf("share "+s.Tag, "virtiofsd %q is no absolute path; name the program from / on", s.Virtiofsd)
		}
		if s.Source == "" || strings.ContainsAny(s.Source, "\x00\n") {
			faults.Addf("share "+s.Tag, "source %q is no path; name the directory to share", s.Source)
		}
	}
	for _, s := range p.StaleSockets {
		check("socket", spec.ValidateInside(s))
	}
	for _, f := range slices.Concat(p.StaleFiles, p.StaleDirs) {
		check("stale file", spec.ValidateInside(f))
	}
	for _, g := range p.Generated {
		check("generated file", spec.ValidateInside(g.Path))
	}
	for _, c := range []*hypervisor.Control{p.Shutdown.Control, p.Readiness.Control, p.Balloon} {
		if c != nil && c.Socket != "" {
			check("control socket", spec.ValidateInside(c.Socket))
		}
	}
	if ssh := p.Shutdown.SSH; ssh != nil {
		check("shutdown key", spec.ValidateInside(ssh.Key))
		if ssh.VsockSocket != "" {
			check("vsock socket", spec.ValidateInside(ssh.VsockSocket))
		}
	}
	if p.Shutdown.Method == hypervisor.ShutdownGuestOverSSH && (p.Shutdown.SSH == nil || p.VsockCID == nil) {
		faults.Addf("shutdown", "%s needs a key and a vsock CID", p.Shutdown.Method)
	}
	if p.Jail != nil {
		for _, path := range slices.Concat(p.Jail.ReadOnly, p.Jail.Writable) {
			check("jail", spec.ValidateJailPath(path))
		}
	}
	if p.Console != "" {
		check("console", spec.ValidateInside(p.Console))
	}
	if p.Readiness.VsockSocket != "" {
		check("vsock socket", spec.ValidateInside(p.Readiness.VsockSocket))
	}
	if p.VsockCID != nil && (*p.VsockCID < 3 || *p.VsockCID > 1<<32-2) {
		faults.Addf("vsock-cid", "%d is reserved or out of range; it is a number from 3 to 4294967294", *p.VsockCID)
	}
	return faults.Err()
}

var interfaceTypes = []string{"user", "tap", "macvtap", "bridge"}

var macvtapModes = []string{"private", "vepa", "bridge", "passthru", "source"}

// foreignPlan reads the text files of a package without runner.json.
func (p *Package) foreignPlan() (*hypervisor.Plan, error) {
	plan := &hypervisor.Plan{
		Version:    hypervisor.PlanVersion,
		Foreign:    true,
		Argv:       []string{RunProgram},
		Shutdown:   hypervisor.Shutdown{Method: hypervisor.ShutdownNone, Why: "the package has no " + ShutdownProgram},
		Readiness:  hypervisor.Readiness{Mode: hypervisor.ReadyNone, Why: "the package has no runner.json"},
		Hypervisor: "unknown",
		System:     p.system(),
	}
	if !p.exists(RunProgram) {
		return nil, fmt.Errorf("%s is no runner package: it has neither %s nor %s; make one of a spec with: microvm build", p.path, planFile, RunProgram)
	}
	if p.exists(ShutdownProgram) {
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownScript, Why: "the package brings its own " + ShutdownProgram}
	}
	for _, read := range []func(*hypervisor.Plan) error{p.readHypervisor, p.readTaps, p.readMacvtaps, p.readDevices, p.readShares, p.readVsock} {
		if err := read(plan); err != nil {
			return nil, err
		}
	}
	plan.Interfaces = madeByHelpers(plan)
	if err := validate(plan); err != nil {
		return nil, fmt.Errorf("runner package %s: %w; build the package again", p.path, err)
	}
	return plan, nil
}

func (p *Package) readHypervisor(plan *hypervisor.Plan) error {
	lines, err := p.lines(hypervisorFile)
	if len(lines) > 0 {
		plan.Hypervisor = lines[0]
	}
	return err
}

func (p *Package) readTaps(plan *hypervisor.Plan) error {
	flags, err := p.lines(tapFlagsFile)
	if err != nil {
		return err
	}
	ids, err := p.lines(tapFile)
	if err != nil {
		return err
	}
	words := strings.Fields(strings.Join(flags, " "))
	for _, id := range ids {
		plan.Taps = append(plan.Taps, hypervisor.Tap{
			ID:         id,
			VnetHdr:    slices.Contains(words, "vnet_hdr"),
			MultiQueue: slices.Contains(words, "multi_queue"),
		})
	}
	return nil
}

func (p *Package) readMacvtaps(plan *hypervisor.Plan) error {
	lines, err := p.lines(macvtapFile)
	for _, line := range lines {
		w := strings.Fields(line)
		if len(w) != 4 {
			return fmt.Errorf("%s/%s: line %q is not \"ID MAC LINK MODE\"; build the package again", p.path, macvtapFile, line)
		}
		plan.Macvtaps = append(plan.Macvtaps, hypervisor.Macvtap{ID: w[0], MAC: w[1], Link: w[2], Mode: w[3], Queues: 1})
	}
	return err
}

func (p *Package) readDevices(plan *hypervisor.Plan) error {
	addresses, err := p.lines(pciFile)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		plan.PCI = append(plan.PCI, hypervisor.PCI{Address: a})
	}
	plan.USB, err = p.lines(usbFile)
	return err
}

func (p *Package) readShares(plan *hypervisor.Plan) error {
	tags, err := p.list(virtiofsDir)
	if len(tags) > 0 {
		plan.Notes = append(plan.Notes, "warning: the package does not say which of its shares are read-only: all are writable; build it with this project's modules to have it say so")
	}
	for _, tag := range tags {
		if err := spec.ValidateTag(tag); err != nil {
			return fmt.Errorf("%s/%s: %w", p.path, virtiofsDir, err)
		}
		// The rest is in a program of the package's, which root does not run:
		// microvm.nix's defaults.
		share := hypervisor.Share{
			Tag: tag, Cache: "auto", PosixACL: true, SocketGroup: "kvm",
			InodeFileHandles: "prefer", ThreadPoolNProc: true, PassTag: plan.Hypervisor == "crosvm",
		}
		for name, field := range map[string]*string{"source": &share.Source, "socket": &share.Socket} {
			lines, err := p.lines(virtiofsDir + "/" + tag + "/" + name)
			if err != nil {
				return err
			}
			if len(lines) != 1 {
				return fmt.Errorf("%s/%s/%s/%s: want one line, found %d; build the package again", p.path, virtiofsDir, tag, name, len(lines))
			}
			*field = lines[0]
		}
		if !slices.Contains(strings.Split(share.Socket, "/"), "..") {
			share.Socket = filepath.Clean(share.Socket) // "./fs.sock" is a socket there
		}
		plan.Shares = append(plan.Shares, share)
	}
	return err
}

func (p *Package) readVsock(plan *hypervisor.Plan) error {
	lines, err := p.lines(vsockFile)
	if err != nil || len(lines) == 0 {
		return err
	}
	cid, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil {
		return fmt.Errorf("%s/%s: %q is no number; build the package again", p.path, vsockFile, lines[0])
	}
	plan.VsockCID = &cid
	return nil
}

// system returns the target of share/microvm/system, or "" where that is not an
// absolute link.
func (p *Package) system() string {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(int(p.dir.Fd()), systemLink, buf)
	if err != nil || !filepath.IsAbs(string(buf[:n])) {
		return ""
	}
	return string(buf[:n])
}

// lines returns the non-empty lines of a text file; none where it is absent.
func (p *Package) lines(name string) ([]string, error) {
	data, err := p.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	if len(out) > maxInterfacesPack {
		return nil, fmt.Errorf("%s/%s has more than %d lines; a package names no more interfaces or devices", p.path, name, maxInterfacesPack)
	}
	return out, nil
}

// find returns a handle of an entry without leaving the package. Each entry of a
// trusted one on the way is root's alone.
func (p *Package) find(name string) (int, error) {
	dir := int(p.dir.Fd())
	if !p.trusted {
		fd, err := safepath.OpenInside(dir, name, unix.O_PATH)
		return fd, p.failed(name, err)
	}
	place, err := safepath.WalkTrustedBeneath(dir, name, safepath.WithinPackage)
	if err != nil {
		return -1, p.failed(name, untrusted(err, p.path))
	}
	return place.FD, nil
}

func (p *Package) failed(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("open %s in runner package %s: %w", name, p.path, err)
}

// open opens a data file. What is no regular file is not opened, and no program
// that waits for a reader of its pipe keeps us.
func (p *Package) open(name string) (*os.File, error) {
	fd, err := p.find(name)
	if err != nil {
		return nil, err
	}
	defer safepath.Close(fd)
	f, err := safepath.ReopenFile(fd, name)
	if errors.Is(err, safepath.ErrNotRegular) {
		return nil, fmt.Errorf("%s/%s: %w; build the package again", p.path, name, err)
	}
	return f, p.failed(name, err)
}

func (p *Package) read(name string) ([]byte, error) {
	f, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s/%s: %w", p.path, name, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s/%s is larger than %d bytes, as no file of a package is; build the package again", p.path, name, maxFile)
	}
	return data, nil
}

func (p *Package) list(name string) ([]string, error) {
	found, err := p.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer safepath.Close(found)
	fd, err := unix.Openat(found, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, p.failed(name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(maxSharesInPack + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list %s/%s: %w", p.path, name, err)
	}
	if len(names) > maxSharesInPack {
		return nil, fmt.Errorf("%s/%s has more than %d entries; a package names no more shares", p.path, name, maxSharesInPack)
	}
	slices.Sort(names)
	return names, nil
}

// exists says whether the package has an entry, be it a link out of it.
func (p *Package) exists(name string) bool {
	return unix.Faccessat(int(p.dir.Fd()), name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}
