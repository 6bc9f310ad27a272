package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/mode"
	"microvm/internal/runner"
	"microvm/internal/safepath"
)

// originName is the directory, beside the VMs, of what root believes about
// each: where its updates come from, what is installed, and what was before.
//
// The files of the same meaning in a VM's own directory are copies, for people
// and for microvm.nix, and are never read here. That they belong to root says
// nothing: a guest's root makes files of the host's root in a writable share,
// and a hypervisor that was broken out of can move them wherever a name is free.
const originName = ".origin"

// fromName is the file that says where updates come from: a word, flake, spec,
// toplevel or takenOver, a space, and what it is.
const fromName = "from"

// takenOver is the word for a VM of which only microvm.nix could say that.
const takenOver = "microvm.nix"

// Origin says where updates of a VM come from; at most one field is set.
type Origin struct {
	// Flake is a flake reference, Spec the absolute path of a spec.
	Flake, Spec string
	// Toplevel is the system of a VM that the host declares fully.
	Toplevel string
	// TakenOver is a VM of microvm.nix that was taken over as it was; Claimed is the
	// flake that its directory named, which a guest could have written.
	TakenOver bool
	Claimed   string
	// New refuses a VM that this program has installed already, with ErrExists.
	New bool
}

// entry is the origin as a word and a value, which is empty where there is none.
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

// recordDir is where root keeps what it believes about the VM.
func (v VM) recordDir() string { return filepath.Join(v.Host.StateDir, originName, v.Name) }

// Adopted says whether this program installed the VM, or took it over.
func (v VM) Adopted() bool {
	_, err := os.Readlink(filepath.Join(v.recordDir(), "current"))
	return err == nil && v.checkRecord() == nil
}

// Created says whether this program installed the VM, and thus knows where it
// comes from. One of microvm.nix is not, before it is installed here once.
func (v VM) Created() bool {
	from, err := v.Origin()
	return v.Installed() && v.Adopted() && !(err == nil && from.TakenOver)
}

// Origin reads where updates of the VM come from.
func (v VM) Origin() (Origin, error) {
	err := v.checkRecord()
	if errors.Is(err, fs.ErrNotExist) {
		return Origin{}, nil
	}
	if err != nil {
		return Origin{}, fmt.Errorf("read where %s comes from: %w", v.Name, err)
	}
	path := filepath.Join(v.recordDir(), fromName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Origin{}, nil
	}
	if err != nil {
		return Origin{}, fmt.Errorf("read where %s comes from: %w", v.Name, err)
	}
	switch kind, value, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), " "); kind {
	case "flake":
		return Origin{Flake: value}, nil
	case "spec":
		return Origin{Spec: value}, nil
	case "toplevel":
		return Origin{Toplevel: value}, nil
	case takenOver:
		return Origin{TakenOver: true, Claimed: value}, nil
	}
	return Origin{}, fmt.Errorf("read where %s comes from: %s says nothing that is known here; install the VM again with: install-microvm", v.Name, path)
}

// checkRecord says whether only root, or the caller, could have made what is in
// the VM's record. Where there is none the error is fs.ErrNotExist.
func (v VM) checkRecord() error {
	top, err := v.Host.RealStateDir()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(v.Host.StateDir, v.recordDir())
	if err != nil {
		return fmt.Errorf("look at the VM's record: %w", err)
	}
	// In the state directory itself there is no sticky bit that would do: hypervisors
	// write below it.
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
		return fmt.Errorf("look at the VM's record: %w", unix.ENOTDIR)
	}
	return nil
}

// untrustedRecord explains why a record, beneath dir, is not believed.
func untrustedRecord(dir string, err error) error {
	var u *safepath.UntrustedError
	if errors.As(err, &u) {
		return &runner.UntrustedError{Path: filepath.Join(dir, u.Path), Reason: "others than root could say there what root installs"}
	}
	return fmt.Errorf("look at the VM's record: %w", err)
}

// makeRecord makes the VM's record.
func (v VM) makeRecord() error {
	for _, dir := range []string{filepath.Dir(v.recordDir()), v.recordDir()} {
		// Not secret, and written by root only.
		if err := mode.Ensure(dir, mode.Public); err != nil {
			return fmt.Errorf("make the record of VM %s: %w", v.Name, err)
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
		return fmt.Errorf("remove the record of VM %s: %w", v.Name, err)
	}
	return v.forgetAttempt()
}

// record writes down where updates come from.
func (v VM) record(from Origin) error {
	kind, value := from.entry()
	if value == "" && kind != takenOver {
		return nil
	}
	if err := writeFile(filepath.Join(v.recordDir(), fromName), []byte(kind+" "+value+"\n"), 0o644); err != nil {
		return err
	}
	// The copies. Nothing depends on them, so one that the hypervisor is in the way
	// of stops nobody. A host that goes back to microvm.nix goes by what it had said.
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

// switchTo points current at the package, and old at what current was.
func (v VM) switchTo(target string) error {
	current := filepath.Join(v.recordDir(), "current")
	before, err := os.Readlink(current)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read what is installed: %w", err)
	}
	if before != "" && before != target {
		if err := writeLink(before, filepath.Join(v.recordDir(), "old")); err != nil {
			return err
		}
		_ = copyLink(before, filepath.Join(v.Dir(), "old")) // a copy
	}
	if before != target {
		if err := writeLink(target, current); err != nil {
			return err
		}
	}
	return writeLink(target, filepath.Join(v.Dir(), "current"))
}

// InGuestsReach says whether a file is below the directories of the VMs, where
// guests and hypervisors write: what is there is nobody's word, whoever owns it.
func (h Host) InGuestsReach(path string) bool {
	below := func(path, dir string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	if below(path, h.StateDir) {
		return true
	}
	// Where one of them is not there it has no links, either.
	dir, errDir := filepath.EvalSymlinks(h.StateDir)
	file, errFile := filepath.EvalSymlinks(path)
	return errDir == nil && errFile == nil && below(file, dir)
}
