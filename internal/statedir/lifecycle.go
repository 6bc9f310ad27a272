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

// ErrExists means that a VM to be created exists already.
var ErrExists = errors.New("VM already exists")

// ErrNoOld means that a VM has no previous package.
var ErrNoOld = errors.New("no previous package to roll back to")

// trustedNames are the files in a VM's directory that only root may create.
var trustedNames = []string{"current", "booted", "old", "flake", "spec", "toplevel"}

// Installed reports whether the VM has a package. A directory without one contains at
// most data.
func (v VM) Installed() bool {
	info, err := os.Lstat(filepath.Join(v.Dir(), "current"))
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// PackageError marks an error of reading the VM's package by whether a retry can help:
// an invalid package remains invalid, but one that cannot be read, or that is missing
// although it was installed, may be on a disk that is mounted later.
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

// Place returns the path under which Install would keep the package at path, which is
// the target that current would have.
func (v VM) Place(path string) (string, error) {
	p, err := v.Host.openTrusted(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	return v.Host.place(p, v.Name)
}

// Rollback makes the previous package the one that the next start uses, and the current
// one the previous, so a second rollback undoes the first. The error is ErrNoOld if
// there is none. reload may be nil.
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
		return fmt.Errorf("find previous package: %w", err)
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
		return err // nothing was changed yet
	}
	if err := v.Host.mend(p.Dir()); err != nil {
		return err
	}
	return v.activate(ctx, plan, p.Dir(), reload)
}

// Remove removes the VM with all its data. The VM must be stopped.
func (v VM) Remove(ctx context.Context, reload func(context.Context) error) error {
	if v.Mounted() {
		return v.removeMounted(ctx, reload)
	}
	// The rename comes first: a crash leaves the whole VM, or a tree that the next
	// garbage collection removes.
	doomed := tempName(v.Dir())
	err := v.remove(ctx, reload, func() error {
		if err := durable.Rename(v.Dir(), doomed); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		return nil
	})
	// Without the lock: how long it takes depends on what the hypervisor created.
	return errors.Join(err, removeTree(doomed))
}

// RemoveKeepingData removes the VM, but not the files that its hypervisor created or
// uses.
func (v VM) RemoveKeepingData(ctx context.Context, reload func(context.Context) error) error {
	return v.remove(ctx, reload, func() error {
		for _, name := range trustedNames {
			err := unix.Unlink(filepath.Join(v.Dir(), name))
			// The hypervisor created a directory of that name.
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) {
				return fmt.Errorf("remove %s of VM %s: %w", name, v.Name, err)
			}
		}
		_ = os.Remove(v.Dir()) // fails unless empty
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
			return fmt.Errorf("remove garbage collector root: %w", err)
		}
	}
	if _, err := v.linkUnits(&hypervisor.Plan{}); err != nil {
		return err
	}
	return reload(ctx)
}
