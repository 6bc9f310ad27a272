package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// ErrExists is a VM that is there already.
var ErrExists = errors.New("the VM exists already")

// ErrNoOld is a VM that has nothing to go back to.
var ErrNoOld = errors.New("nothing was installed before")

// rootsNames are the names in a VM's directory that are root's word.
var rootsNames = []string{"current", "booted", "old", "flake", "spec", "toplevel"}

// Installed says whether the VM has a package. A directory without one holds
// data at most.
func (v VM) Installed() bool {
	info, err := os.Lstat(filepath.Join(v.Dir(), "current"))
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// PackageError is err of reading the VM's package. A package that is not as it
// should be stays so; one that cannot be read, or is not there though it was
// installed, may be on a disk that is mounted later.
func (v VM) PackageError(err error) error {
	var errno unix.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if v.Installed() {
			return err
		}
	case errors.As(err, &errno):
		return err
	}
	return exit.Config(err)
}

// Place returns where Install would keep the package at path: the target that
// current would have.
func (v VM) Place(path string) (string, error) {
	p, err := v.Host.openTrusted(path)
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
	old := filepath.Join(v.recordDir(), "old")
	err = v.checkRecord()
	if err == nil {
		_, err = os.Lstat(old)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoOld
	}
	if err != nil {
		return fmt.Errorf("look for what was installed before: %w", err)
	}
	p, err := v.Host.openTrusted(old)
	if err != nil {
		return fmt.Errorf("follow %s: %w", old, err)
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	if _, err := v.dropIns(plan); err != nil {
		return err // before anything is changed
	}
	if err := v.Host.mend(p.Dir()); err != nil {
		return err
	}
	return v.activate(ctx, plan, p.Dir(), reload)
}

// Remove removes the VM with all its data. It has to be down.
func (v VM) Remove(ctx context.Context, reload func(context.Context) error) error {
	if v.Mounted() {
		return v.removeMounted(ctx, reload)
	}
	// The rename first: a crash leaves the whole VM or none, and what it leaves
	// is removed by the next collection.
	doomed := tempName(v.Dir())
	err := v.remove(ctx, reload, func() error {
		if err := durable.Rename(v.Dir(), doomed); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		return nil
	})
	// Without the lock: its hypervisor decided how long it takes.
	return errors.Join(err, removeTree(doomed))
}

// RemoveKeepingData removes everything of the VM but the files that its
// hypervisor made or uses.
func (v VM) RemoveKeepingData(ctx context.Context, reload func(context.Context) error) error {
	return v.remove(ctx, reload, func() error {
		for _, name := range rootsNames {
			err := unix.Unlink(filepath.Join(v.Dir(), name))
			// A directory of that name is the hypervisor's.
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) {
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
	if err := files(); err != nil {
		return err
	}
	if err := v.forget(); err != nil {
		return err
	}
	for _, prefix := range []string{"", "booted-", "old-"} {
		if err := os.Remove(filepath.Join(v.Host.GCRoots, "microvm", prefix+v.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("let Nix collect the VM's packages: %w", err)
		}
	}
	if _, err := v.linkUnits(&hypervisor.Plan{}); err != nil {
		return err
	}
	return reload(ctx)
}
