package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/mode"
	"microvm/internal/runner"
	"microvm/internal/safepath"
)

// originName is the directory, next to those of the VMs, of the trusted records: for
// each VM the source of its updates, the installed package and the previous one.
//
// Files of the same names in a VM's own directory are copies, for people and for
// microvm.nix, and are never read here. That root owns them proves nothing: a guest's
// root creates files that the host's root owns in a writable share, and a compromised
// hypervisor can move them to any name that is free.
const originName = ".origin"

// fromName is the file with the source of updates: its kind, which is flake, spec,
// toplevel or takenOver, a space, and the source itself.
const fromName = "from"

// takenOver is the kind of a VM that was taken over from microvm.nix, so that its
// source is not trusted.
const takenOver = "microvm.nix"

// Origin is the source of a VM's updates. At most one of Flake, Spec, Toplevel and
// TakenOver is set.
type Origin struct {
	// Flake is a flake reference, Spec the absolute path of a spec.
	Flake, Spec string
	// Toplevel is the system of a VM that the host's configuration declares fully.
	Toplevel string
	// TakenOver is set for a VM that was taken over from microvm.nix as it was. Claimed
	// is the flake that its directory names, which a guest could have written.
	TakenOver bool
	Claimed   string
	// New makes Install fail with ErrExists if this program has already installed the
	// VM.
	New bool
}

// entry returns the kind and the source of the origin. The source may be empty.
func (o Origin) entry() (kind, value string) {
	switch {
	case o.Toplevel != "":
		return "toplevel", o.Toplevel
	case o.Flake != "":
		return "flake", o.Flake
	case o.TakenOver:
		return takenOver, o.Claimed
	}
	return "spec", o.Spec
}

// recordDir is the directory of the trusted record of the VM.
func (v VM) recordDir() string { return filepath.Join(v.Host.StateDir, originName, v.Name) }

// Adopted reports whether this program installed the VM or took it over.
func (v VM) Adopted() bool {
	_, err := os.Readlink(filepath.Join(v.recordDir(), "current"))
	return err == nil && v.checkRecord() == nil
}

// Created reports whether this program installed the VM, and thus knows the source of
// its updates. A VM of microvm.nix does not count before it is installed once more.
func (v VM) Created() bool {
	from, err := v.Origin()
	return v.Installed() && v.Adopted() && !(err == nil && from.TakenOver)
}

// Origin returns the source of the VM's updates, the zero value if there is no record.
func (v VM) Origin() (Origin, error) {
	err := v.checkRecord()
	if errors.Is(err, fs.ErrNotExist) {
		return Origin{}, nil
	}
	if err != nil {
		return Origin{}, fmt.Errorf("read source of %s: %w", v.Name, err)
	}
	path := filepath.Join(v.recordDir(), fromName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Origin{}, nil
	}
	if err != nil {
		return Origin{}, fmt.Errorf("read source of %s: %w", v.Name, err)
	}
	kind, value, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	switch kind {
	case "flake":
		return Origin{Flake: value}, nil
	case "spec":
		return Origin{Spec: value}, nil
	case "toplevel":
		return Origin{Toplevel: value}, nil
	case takenOver:
		return Origin{TakenOver: true, Claimed: value}, nil
	}
	err = fmt.Errorf("read source of %s: unknown kind %q in %s", v.Name, kind, path)
	return Origin{}, exit.WithHint(err, "install the VM again with: install-microvm")
}

// checkRecord returns an error unless only root, or the caller, could have written the
// VM's record. The error is fs.ErrNotExist if there is no record.
func (v VM) checkRecord() error {
	top, err := v.Host.RealStateDir()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(v.Host.StateDir, v.recordDir())
	if err != nil {
		return fmt.Errorf("check record of VM %s: %w", v.Name, err)
	}
	// Within the state directory, sticky directories are not accepted: hypervisors write
	// below it.
	at, err := safepath.WalkTrusted(top, safepath.ForRecord)
	if err != nil {
		return untrustedRecord("", err)
	}
	defer at.Close()
	record, err := safepath.WalkTrustedBeneath(at.FD, rel, safepath.Policy{Caller: true, Target: true})
	if err != nil {
		return untrustedRecord(top, err)
	}
	defer record.Close()
	if record.Stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("check record of VM %s: %w", v.Name, unix.ENOTDIR)
	}
	return nil
}

// untrustedRecord explains why a record beneath dir is not trusted.
func untrustedRecord(dir string, err error) error {
	var u *safepath.UntrustedError
	if errors.As(err, &u) {
		return &runner.UntrustedError{Path: filepath.Join(dir, u.Path), Reason: "non-root users could determine there what root installs"}
	}
	return fmt.Errorf("check the VM's record: %w", err)
}

// makeRecord creates the VM's record, if missing.
func (v VM) makeRecord() error {
	for _, dir := range []string{filepath.Dir(v.recordDir()), v.recordDir()} {
		if err := mode.Ensure(dir, mode.Public); err != nil { // not secret
			return fmt.Errorf("create record of VM %s: %w", v.Name, err)
		}
	}
	if err := v.checkRecord(); err != nil {
		return err
	}
	return removeLeftovers(v.recordDir())
}

// forget removes the VM's record.
func (v VM) forget() error {
	if err := os.RemoveAll(v.recordDir()); err != nil {
		return fmt.Errorf("remove record of VM %s: %w", v.Name, err)
	}
	return v.forgetAttempt()
}

// record records the source of the VM's updates.
func (v VM) record(from Origin) error {
	kind, value := from.entry()
	if value == "" && kind != takenOver {
		return nil
	}
	if err := writeFile(filepath.Join(v.recordDir(), fromName), []byte(kind+" "+value+"\n"), 0o644); err != nil {
		return err
	}
	// The copies. Nothing depends on them, so their errors are ignored: a hypervisor
	// can block them. A host that goes back to microvm.nix uses the flake that was
	// there.
	if kind == takenOver && value != "" {
		kind = "flake"
	}
	for _, name := range []string{"flake", "spec", "toplevel"} {
		path := filepath.Join(v.Dir(), name)
		switch {
		case name != kind:
			_ = unix.Unlink(path)
		case name == "toplevel":
			_ = copyLink(value, path)
		default:
			_ = copyFile(path, []byte(value+"\n"), 0o644)
		}
	}
	return nil
}

// switchTo makes current a link to the package, and old a link to the one before.
func (v VM) switchTo(target string) error {
	current := filepath.Join(v.recordDir(), "current")
	before, err := os.Readlink(current)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read installed package of %s: %w", v.Name, err)
	}
	if before != "" && before != target {
		if err := writeLink(before, filepath.Join(v.recordDir(), "old")); err != nil {
			return err
		}
		_ = copyLink(before, filepath.Join(v.Dir(), "old"))
	}
	if before != target {
		if err := writeLink(target, current); err != nil {
			return err
		}
	}
	return writeLink(target, filepath.Join(v.Dir(), "current"))
}

// InGuestsReach reports whether a file is below the state directory, where guests and
// hypervisors write: it is not trusted, whoever owns it.
func (h Host) InGuestsReach(path string) bool {
	below := func(path, dir string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	if below(path, h.StateDir) {
		return true
	}
	// A path that does not exist has no links either.
	dir, errDir := filepath.EvalSymlinks(h.StateDir)
	file, errFile := filepath.EvalSymlinks(path)
	return errDir == nil && errFile == nil && below(file, dir)
}
