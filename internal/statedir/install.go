package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/mode"
	"microvm/internal/rootlock"
	"microvm/internal/runner"
	"microvm/internal/safepath"
)

// Install makes the package at path the one that the VM's next start uses. Paths may be
// relative to the working directory. It creates or repairs the VM's directories, copies
// the package into the store unless it is in the Nix store, and activates it last.
// reload makes systemd read the VM's drop-ins if they changed; it may be nil.
func (v VM) Install(ctx context.Context, path string, from Origin, reload func(context.Context) error) error {
	plan, err := v.install(ctx, path, from, reload)
	if err != nil {
		return err
	}
	// Without the lock: how long it takes depends on what is in the VM's directory.
	v.makeSources(plan)
	return nil
}

// install is the part of Install that needs the lock.
func (v VM) install(ctx context.Context, path string, from Origin, reload func(context.Context) error) (*hypervisor.Plan, error) {
	if os.Geteuid() != 0 {
		return nil, exit.WithHint(errors.New("installing a VM requires root"), "run it with sudo")
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
	// Fail before anything is changed. The drop-ins are computed again when the running
	// package is known, which makeDir may take over from microvm.nix.
	if _, err := v.dropIns(plan); err != nil {
		return nil, err
	}
	if from.Spec != "" && v.Host.InGuestsReach(from.Spec) {
		err := fmt.Errorf("spec %s is below %s, where guests write", from.Spec, v.Host.StateDir)
		return nil, exit.WithHint(err, "move it, for example to /etc/microvm")
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
			return "", from, exit.WithHint(fmt.Errorf("resolve path %s: %w", *p, err), "use an absolute path")
		}
		*p = abs
	}
	flake, err := AbsoluteFlake(from.Flake)
	from.Flake = flake
	return path, from, err
}

// openToInstall opens a package that only root can change, and returns its plan, too.
func (h Host) openToInstall(path string) (*runner.Package, *hypervisor.Plan, error) {
	p, err := h.openTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, exit.WithHint(err, "specify a runner package, as built by: microvm build")
	}
	if err != nil {
		return nil, nil, exit.WithHint(err, "build it as root, or copy it with: sudo cp -r")
	}
	plan, err := p.Plan()
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, plan, nil
}

// activate makes the package in dir, which has that plan, the one that the next start
// uses: it writes the VM's drop-ins first, and the link current last. The caller holds
// the lock. reload is called if a drop-in changed; it may be nil.
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

// lock excludes other installations, removals and garbage collections.
func (h Host) lock() (unlock func(), err error) {
	dir, err := h.RealStateDir()
	if err != nil {
		return nil, err
	}
	if err := mode.DirAll(dir, mode.Public); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	if err := h.own(dir); err != nil {
		return nil, err
	}
	return rootlock.Take(h.StateDir)
}

// own makes root the owner of the state directory. On a host that used microvm.nix the
// hypervisors' user owns it, who could replace every VM's directory in it, and may have
// planted the files that root trusts.
func (h Host) own(dir string) error {
	fd, err := safepath.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open state directory %s: %w", h.StateDir, err)
	}
	defer safepath.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat state directory %s: %w", h.StateDir, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		for _, name := range []string{originName, storeName, rootlock.Name} {
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
				path := filepath.Join(h.StateDir, name)
				err := fmt.Errorf("%s is writable by non-root users, so %s may have been planted", h.StateDir, path)
				return exit.WithHint(err, "inspect %[2]s, then run: chown root:root %[1]s; chmod 755 %[1]s", h.StateDir, path)
			}
		}
	}
	if err := errors.Join(safepath.Chown(fd, 0, 0), safepath.Chmod(fd, 0o755)); err != nil {
		return fmt.Errorf("change owner of state directory %s: %w", h.StateDir, err)
	}
	return nil
}

// makeDir creates the VM's directory and its record. In an existing directory it
// removes files under trusted names that root does not own.
func (v VM) makeDir(gid int) error {
	err := os.Mkdir(v.Dir(), 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create directory of VM %s: %w", v.Name, err)
	}
	if err == nil {
		// There may be a record of a VM of that name whose directory was removed
		// manually.
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

// ownDir makes root the owner of the VM's directory, and the directory sticky: the
// hypervisor can create files in it, but not replace root's.
func (v VM) ownDir(gid int) error {
	fd, err := safepath.OpenDir(v.Dir())
	if err != nil {
		return exit.WithHint(fmt.Errorf("open directory of VM %s: %w", v.Name, err), "%s must be a directory, not a link", v.Dir())
	}
	defer safepath.Close(fd)
	if err := safepath.Chown(fd, 0, gid); err != nil {
		return fmt.Errorf("change owner of %s: %w", v.Dir(), err)
	}
	if err := safepath.Chmod(fd, 0o1775); err != nil {
		return fmt.Errorf("change mode of %s: %w", v.Dir(), err)
	}
	return nil
}

// clean removes temporary files of a crash, and files under trusted names that root
// does not own.
func (v VM) clean() error {
	if err := removeFilesLeft(v.Dir()); err != nil {
		return err
	}
	for _, name := range trustedNames {
		var st unix.Stat_t
		path := filepath.Join(v.Dir(), name)
		if err := unix.Lstat(path, &st); err != nil || st.Uid == 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		// It is left from microvm.nix, or planted.
		if err := clearName(path); err != nil {
			return err
		}
	}
	return nil
}

// keepFromCollection adds the packages of the VM's links to Nix's garbage collector
// roots.
func (v VM) keepFromCollection() error {
	if _, err := os.Stat(v.Host.GCRoots); err != nil {
		return nil // no Nix on this host
	}
	dir := filepath.Join(v.Host.GCRoots, "microvm")
	if err := mode.Ensure(dir, mode.Public); err != nil {
		return fmt.Errorf("add garbage collector root: %w", err)
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
