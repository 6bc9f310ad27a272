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

	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
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
	if errors.Is(err, safepath.ErrNoProc) {
		f, err = safepath.OpenSame(int(p.dir.Fd()), name, fd)
	}
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
