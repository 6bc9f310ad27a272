package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"microvm/internal/hypervisor"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/runner"
)

// ErrExists is a VM that is there already.
var ErrExists = errors.New("the VM exists already")

// ErrNoOld is a VM that has nothing to go back to.
var ErrNoOld = errors.New("nothing was installed before")

// rootsNames are the names in a VM's directory that are root's word.
var rootsNames = []string{"current", "booted", "old", "flake", "spec", "toplevel"}

// maxOrigin is more than any flake reference or path has, in bytes.
const maxOrigin = 64 << 10

// Installed says whether the VM has a package. A directory without one holds
// data at most.
func (v VM) Installed() bool {
	info, err := os.Lstat(filepath.Join(v.Dir(), "current"))
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// Origin reads where updates of the VM come from. What is not root's, and not
// the caller's, is nobody's word: the hypervisor can make files in its
// directory.
func (v VM) Origin() (Origin, error) {
	var o Origin
	var err error
	if o.Flake, err = v.readOrigin("flake"); err != nil {
		return o, err
	}
	if o.Spec, err = v.readOrigin("spec"); err != nil {
		return o, err
	}
	path := filepath.Join(v.Dir(), "toplevel")
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || !ours(st.Uid) {
		return o, nil //nolint:nilerr // the VM is not declared
	}
	if o.Toplevel, err = os.Readlink(path); err != nil {
		return o, fmt.Errorf("read the VM's system: %w", err)
	}
	return o, nil
}

func ours(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func (v VM) readOrigin(name string) (string, error) {
	path := filepath.Join(v.Dir(), name)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // not followed, and its owner is looked at
	// A link is not ours: the records are written as files.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read where the VM comes from: %w", err)
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a descriptor
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	if !ours(st.Uid) || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxOrigin))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	// microvm.nix writes no line break.
	return strings.TrimSuffix(string(data), "\n"), nil
}

// Place returns where Install would keep the package at path: the target that
// current would have.
func (v VM) Place(path string) (string, error) {
	p, err := runner.OpenTrusted(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	return v.Host.place(p, v.Name)
}

// Rollback makes the package installed before the one that the next start
// uses, and the present one old, so that a second rollback undoes the first.
func (v VM) Rollback(ctx context.Context, reload func(context.Context) error) error {
	unlock, err := v.Host.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(v.Dir(), "old")); errors.Is(err, fs.ErrNotExist) {
		return ErrNoOld
	}
	p, err := v.open("old")
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	if _, err := v.jailDropIns(plan); err != nil {
		return err // before anything is changed
	}
	changed, err := v.linkUnits(plan)
	if err != nil {
		return err
	}
	if err := v.switchTo(p.Dir()); err != nil {
		return err
	}
	if err := v.root(); err != nil {
		return err
	}
	if changed {
		return reload(ctx)
	}
	return nil
}

// Remove removes the VM with all its data. It has to be down.
func (v VM) Remove(ctx context.Context, reload func(context.Context) error) error {
	return v.remove(ctx, reload, func() error {
		// The rename first: a crash leaves the whole VM or none, and what it leaves
		// is removed by the next collection.
		doomed := tempName(v.Dir())
		if err := os.Rename(v.Dir(), doomed); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		if err := os.RemoveAll(doomed); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		return nil
	})
}

// RemoveKeepingData removes everything of the VM but the files that its
// hypervisor made or uses.
func (v VM) RemoveKeepingData(ctx context.Context, reload func(context.Context) error) error {
	return v.remove(ctx, reload, func() error {
		for _, name := range rootsNames {
			if err := os.Remove(filepath.Join(v.Dir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the VM's %s: %w", name, err)
			}
		}
		_ = os.Remove(v.Dir()) // only where it is empty
		return nil
	})
}

func (v VM) remove(ctx context.Context, reload func(context.Context) error, files func() error) error {
	unlock, err := v.Host.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeLeftovers(v.Host.StateDir); err != nil {
		return err
	}
	if err := files(); err != nil {
		return err
	}
	for _, prefix := range []string{"", "booted-", "old-"} {
		if err := os.Remove(filepath.Join(v.Host.GCRoots, "microvm", prefix+v.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("let Nix collect the VM's packages: %w", err)
		}
	}
	unit := filepath.Join(v.Host.UnitDir, "microvm@"+v.Name+".service")
	if err := os.RemoveAll(unit + ".requires"); err != nil {
		return fmt.Errorf("remove the VM's unit links: %w", err)
	}
	if _, err := v.linkDropIns(&hypervisor.Plan{}); err != nil {
		return err
	}
	return reload(ctx)
}
