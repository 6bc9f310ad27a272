package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/mode"
	"microvm/internal/rootlock"
	"microvm/internal/runner"
	"microvm/internal/safepath"
)

// Install makes the package at path the one that the VM's next start uses. Paths
// may be relative to the working directory. It makes or repairs the VM's directories,
// copies the package into the store where Nix does not keep it, and activates it
// last. reload tells the service manager that the VM's drop-ins changed; it may be
// nil.
func (v VM) Install(ctx context.Context, path string, from Origin, reload func(context.Context) error) error {
	plan, err := v.install(ctx, path, from, reload)
	if err != nil {
		return err
	}
	// Without the lock: what is in the VM's directory has a say in how long it takes.
	v.makeSources(plan)
	return nil
}

// install is Install without what needs no lock.
func (v VM) install(ctx context.Context, path string, from Origin, reload func(context.Context) error) (*hypervisor.Plan, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("installing needs root; run it with sudo")
	}
	account, err := v.Host.Account()
	if err != nil {
		return nil, err
	}
	if path, from, err = absolute(path, from); err != nil {
		return nil, err
	}
	p, plan, err := v.Host.openToInstall(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	// Before anything is changed. What it is to have is looked at again when what runs
	// is known, which makeDir may take over from microvm.nix.
	if _, err := v.dropIns(plan); err != nil {
		return nil, err
	}
	if from.Spec != "" && v.Host.InGuestsReach(from.Spec) {
		return nil, fmt.Errorf("spec %s is below %s, where guests write, who would decide what root installs; move it, to /etc/microvm for example", from.Spec, v.Host.StateDir)
	}
	unlock, err := v.Host.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if from.New && v.Created() {
		return nil, ErrExists
	}
	if err := v.makeDir(account.GID); err != nil {
		return nil, err
	}
	kept, err := v.Host.keep(p, v.Name)
	if err != nil {
		return nil, err
	}
	if err := v.record(from); err != nil {
		return nil, err
	}
	return plan, v.activate(ctx, plan, kept, reload)
}

// absolute makes the paths of an installation absolute.
func absolute(path string, from Origin) (string, Origin, error) {
	for _, p := range []*string{&path, &from.Spec, &from.Toplevel} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return "", from, fmt.Errorf("find where %s is: %w; give an absolute path", *p, err)
		}
		*p = abs
	}
	flake, err := AbsoluteFlake(from.Flake)
	from.Flake = flake
	return path, from, err
}

// openToInstall opens a package that is root's alone, with its plan.
func (h Host) openToInstall(path string) (*runner.Package, *hypervisor.Plan, error) {
	p, err := h.openTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w; name a runner package, such as microvm build makes", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w; only a package that is root's alone can be installed: build it as root, or copy it with: sudo cp -r", err)
	}
	plan, err := p.Plan()
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, plan, nil
}

// activate makes the package in dir, whose plan it is, the one that the next start
// uses: what the VM's units are to have comes first, and current last. The lock is
// held. reload, where it is not nil, is called if a drop-in changed.
func (v VM) activate(ctx context.Context, plan *hypervisor.Plan, dir string, reload func(context.Context) error) error {
	changed, err := v.linkUnits(plan)
	if err != nil {
		return err
	}
	if err := v.switchTo(dir); err != nil {
		return err
	}
	if err := v.keepFromCollection(); err != nil {
		return err
	}
	if changed && reload != nil {
		return reload(ctx)
	}
	return nil
}

// lock keeps other installations, removals and collections away.
func (h Host) lock() (unlock func(), err error) {
	dir, err := h.RealStateDir()
	if err != nil {
		return nil, err
	}
	if err := mode.DirAll(dir, mode.Public); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if err := h.own(dir); err != nil {
		return nil, err
	}
	return rootlock.Take(h.StateDir)
}

// own makes the state directory root's. On a host that comes from microvm.nix
// the hypervisors' user owns it, who could replace every VM's in it, and could
// have made what root believes.
func (h Host) own(dir string) error {
	fd, err := safepath.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open state directory %s: %w", h.StateDir, err)
	}
	defer safepath.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at state directory %s: %w", h.StateDir, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		for _, name := range []string{originName, storeName, rootlock.Name} {
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
				path := filepath.Join(h.StateDir, name)
				return fmt.Errorf("others than root can write to %[1]s and could have made %[2]s, which root goes by; see that nobody did, and run: chown root:root %[1]s; chmod 755 %[1]s", h.StateDir, path)
			}
		}
	}
	if err := errors.Join(safepath.Chown(fd, 0, 0), safepath.Chmod(fd, 0o755)); err != nil {
		return fmt.Errorf("own state directory %s: %w", h.StateDir, err)
	}
	return nil
}

// makeDir makes the VM's directory, and takes away what is not root's in it.
func (v VM) makeDir(gid int) error {
	err := os.Mkdir(v.Dir(), 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory of VM %s: %w", v.Name, err)
	}
	if err == nil {
		// Of a VM of that name whose directory was removed by hand.
		if err := v.forget(); err != nil {
			return err
		}
	}
	if err := v.ownDir(gid); err != nil {
		return err
	}
	if err := v.adoptBooted(); err != nil {
		return err
	}
	if err := v.clean(); err != nil {
		return err
	}
	return v.makeRecord()
}

// ownDir makes the VM's directory root's, and sticky, so that the hypervisor can
// create files and cannot replace root's.
func (v VM) ownDir(gid int) error {
	fd, err := safepath.OpenDir(v.Dir())
	if err != nil {
		return fmt.Errorf("open directory of VM %s: %w; it has to be a directory, not a link", v.Name, err)
	}
	defer safepath.Close(fd)
	if err := safepath.Chown(fd, 0, gid); err != nil {
		return fmt.Errorf("own %s: %w", v.Dir(), err)
	}
	if err := safepath.Chmod(fd, 0o1775); err != nil {
		return fmt.Errorf("set the mode of %s: %w", v.Dir(), err)
	}
	return nil
}

// clean removes what a crash, or somebody else, left under names of root's.
func (v VM) clean() error {
	if err := removeFilesLeft(v.Dir()); err != nil {
		return err
	}
	for _, name := range rootsNames {
		var st unix.Stat_t
		path := filepath.Join(v.Dir(), name)
		if err := unix.Lstat(path, &st); err != nil || st.Uid == 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		// Taken over from microvm.nix, or planted: never root's word.
		if err := clearName(path); err != nil {
			return err
		}
	}
	return nil
}

// keepFromCollection makes Nix keep what the VM's links lead to.
func (v VM) keepFromCollection() error {
	if _, err := os.Stat(v.Host.GCRoots); err != nil {
		return nil // no Nix on this host
	}
	dir := filepath.Join(v.Host.GCRoots, "microvm")
	if err := mode.Ensure(dir, mode.Public); err != nil {
		return fmt.Errorf("keep the VM's packages from Nix's garbage collector: %w", err)
	}
	for prefix, link := range map[string]string{
		"": filepath.Join(v.Dir(), "current"), "booted-": v.runtimeBooted(), "old-": filepath.Join(v.recordDir(), "old"),
	} {
		if err := writeLink(link, filepath.Join(dir, prefix+v.Name)); err != nil {
			return err
		}
	}
	return nil
}
