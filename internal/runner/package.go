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
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
)

// Package is an open runner package. All its files are read through the open directory, so
// what is read is what was checked. The caller must close it.
type Package struct {
	dir  *os.File
	path string
	// trusted means that each file that is read must be writable by root alone.
	trusted bool
	// asBuilt means to use the plan even if the package's programs were replaced.
	asBuilt bool
}

// Open opens the package at path without checking who could have changed it, for commands
// that a user runs on a package of their own.
func Open(path string) (*Package, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open runner package %s: %w", path, err)
	}
	return &Package{dir: os.NewFile(uintptr(fd), path), path: path}, nil
}

// Dir returns the package's path: absolute and without links if it was opened by
// OpenTrusted, otherwise as it was given.
func (p *Package) Dir() string { return p.path }

// SetDir sets the path that Dir returns and messages use, to another one of the package.
func (p *Package) SetDir(path string) { p.path = path }

// AsBuilt makes Plan return the plan as it was built, even if programs of the package were
// replaced.
func (p *Package) AsBuilt() { p.asBuilt = true }

// Close closes the package.
func (p *Package) Close() error { return p.dir.Close() }

// Plan returns the plan in runner.json or, without that, one from the package's text files.
// Every name in it is validated.
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
		plan.System = p.system() // older packages have only the link
	}
	if p.asBuilt || plan.Programs == nil {
		return plan, nil
	}
	return plan, p.heed(plan)
}

// heed makes a plan use the programs that replaced those that were written with it. Root
// only reads them.
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
		plan.Readiness = hypervisor.Readiness{Mode: hypervisor.ReadyNone, Why: "the package's " + RunProgram + " is not the one that microvm build wrote"}
		plan.Notes = append(plan.Notes, RunProgram+" is not the one that microvm build wrote: it runs instead of the plan")
	}
	switch {
	case !shutdown:
	case p.exists(ShutdownProgram):
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownScript, Why: "the package's " + ShutdownProgram + " is not the one that microvm build wrote"}
	default:
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownNone, Why: ShutdownProgram + " was removed from the package"}
	}
	return nil
}

// changed reports whether a program has another digest than want; an empty want means that
// there was no such program. A link out of the package counts as changed.
func (p *Package) changed(name, want string) (bool, error) {
	f, err := p.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return want != "" || p.exists(name), nil // true for a dangling link
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP), errors.Is(err, safepath.ErrNotRegular):
		return true, nil
	case err != nil:
		return false, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("stat %s/%s: %w", p.path, name, err)
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

// rebuild returns err with the remedy for a package that is not as this program writes it.
func rebuild(err error) error { return exit.WithHint(err, "build the package again") }

// decodePlan decodes and validates a plan.
func decodePlan(data []byte) (*hypervisor.Plan, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, rebuild(fmt.Errorf("invalid plan: %w", err))
	}
	if version.Version > hypervisor.PlanVersion {
		return nil, exit.WithHint(fmt.Errorf("the plan has format %d, and this version of microvm supports %d", version.Version, hypervisor.PlanVersion),
			"update microvm on this host, or build the package with the version installed here")
	}
	var written storedPlan
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&written); err != nil {
		return nil, rebuild(fmt.Errorf("invalid plan: %w", err))
	}
	plan := written.current()
	if plan.Version < 1 || len(plan.Argv) == 0 || plan.Argv[0] == "" {
		return nil, rebuild(errors.New("the plan has no version or no command line"))
	}
	if plan.Last < 0 || plan.Last >= len(plan.Argv) {
		return nil, rebuild(fmt.Errorf("the plan has %d last arguments of %d", plan.Last, len(plan.Argv)))
	}
	if err := validate(plan); err != nil {
		return nil, rebuild(err)
	}
	return plan, nil
}

// system returns the target of share/microvm/system, or "" if that is not an absolute link.
func (p *Package) system() string {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(int(p.dir.Fd()), systemLink, buf)
	if err != nil || !filepath.IsAbs(string(buf[:n])) {
		return ""
	}
	return string(buf[:n])
}

// lines returns the non-empty lines of a text file, or none if the file does not exist.
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
		return nil, fmt.Errorf("%s/%s has more than %d lines", p.path, name, maxInterfacesPack)
	}
	return out, nil
}

// find returns a descriptor (O_PATH) of an entry, without leaving the package. In a trusted
// package each directory on the way must be writable by root alone. The caller must close
// the descriptor.
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

// open opens a regular file. It refuses any other entry without opening it, as the open of
// a FIFO could block.
func (p *Package) open(name string) (*os.File, error) {
	fd, err := p.find(name)
	if err != nil {
		return nil, err
	}
	defer safepath.Close(fd)
	f, err := safepath.ReopenFile(fd, name)
	if errors.Is(err, safepath.ErrNoProc) {
		f, err = safepath.OpenSame(int(p.dir.Fd()), name, fd)
	}
	if errors.Is(err, safepath.ErrNotRegular) {
		return nil, rebuild(fmt.Errorf("%s/%s: %w", p.path, name, err))
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
		return nil, rebuild(fmt.Errorf("%s/%s is larger than %d bytes", p.path, name, maxFile))
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
		return nil, fmt.Errorf("%s/%s has more than %d entries", p.path, name, maxSharesInPack)
	}
	slices.Sort(names)
	return names, nil
}

// exists reports whether the package has an entry of that name; it does not follow links.
func (p *Package) exists(name string) bool {
	return unix.Faccessat(int(p.dir.Fd()), name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}
