package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/mode"
	"microvm/internal/printable"
	"microvm/internal/rootlock"
	"microvm/internal/runner"
	"microvm/internal/safepath"
	"microvm/internal/unit"
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

// Relink gives the units of all installed VMs what this version gives a VM that it
// installs now, takes over those of microvm.nix, and calls reload, where it is not
// nil, if anything changed. It is for an upgrade of this program, and for a host
// that comes to it. A VM that cannot be relinked does not keep the others from it.
func (h Host) Relink(ctx context.Context, reload func(context.Context) error) error {
	if os.Geteuid() != 0 {
		return errors.New("relinking needs root; run it with sudo")
	}
	names, err := h.Names()
	if err != nil || len(names) == 0 {
		return err
	}
	account, err := h.Account()
	if err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var errs error
	changed := false
	for _, name := range names {
		vm := VM{Host: h, Name: name}
		if !vm.Installed() {
			continue
		}
		work := vm.relink
		if !vm.Adopted() {
			work = func() (bool, error) { return vm.takeOver(account.GID) }
		}
		one, err := work()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", name, err))
		}
		changed = changed || one
	}
	if changed && reload != nil {
		errs = errors.Join(errs, reload(ctx))
	}
	return errs
}

// relink is Relink of one VM.
func (v VM) relink() (changed bool, err error) {
	p, err := v.Current()
	if err != nil {
		return false, err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return false, err
	}
	changed, err = v.linkUnits(plan)
	return changed, errors.Join(err, v.keepFromCollection())
}

// takeOver makes a VM of microvm.nix one of ours, whether it runs or not: it keeps
// its package, what it was started with, and its data. Its directory belongs to the
// hypervisors' user, who could have chosen any package of root's; as with microvm.nix
// its word counts this once. A directory that is root's stays what root made of it.
func (v VM) takeOver(gid int) (changed bool, err error) {
	target, err := os.Readlink(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return false, fmt.Errorf("read what is installed: %w", err)
	}
	p, err := v.Host.openTrusted(target)
	if err != nil {
		return false, err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return false, err
	}
	if _, err := v.dropIns(plan); err != nil {
		return false, err
	}
	kept, err := v.Host.keep(p, v.Name)
	if err != nil {
		return false, err
	}
	// What is replaced is replaced at once, and what goes goes last: a crash leaves a
	// VM that is taken over by the next call.
	if err := v.ownDir(gid); err != nil {
		return false, err
	}
	from := Origin{TakenOver: true, Claimed: v.flakeOfMicrovmNix()}
	err = errors.Join(
		v.adoptBooted(),
		writeLink(kept, filepath.Join(v.Dir(), "current")),
	)
	if err != nil {
		return false, err
	}
	if err := errors.Join(v.makeRecord(), v.record(from)); err != nil {
		return false, err
	}
	if err := v.clean(); err != nil {
		return false, err
	}
	changed, err = v.linkUnits(plan)
	return changed, errors.Join(err, v.switchTo(kept), v.keepFromCollection())
}

// flakeOfMicrovmNix is what the VM's directory says of where it comes from.
func (v VM) flakeOfMicrovmNix() string {
	const most = 4096
	dir, err := safepath.OpenDir(v.Dir())
	if err != nil {
		return ""
	}
	defer safepath.Close(dir)
	f, err := safepath.OpenFile(dir, "flake")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil || len(text) == most {
		return ""
	}
	return printable.Line(strings.TrimSpace(string(text)))
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

// linkUnits gives the VM's units what its plan needs beside the templates. It
// reports whether anything changed.
func (v VM) linkUnits(plan *hypervisor.Plan) (bool, error) {
	texts, err := v.dropIns(plan)
	if err != nil {
		return false, err
	}
	links, err := v.removeOldLinks()
	if err != nil {
		return false, err
	}
	dropIns, err := v.writeDropIns(texts)
	return links || dropIns, err
}

// removeOldLinks removes the links by which earlier versions made the VM's unit
// require its helpers: a unit whose requirement failed is not tried again.
func (v VM) removeOldLinks() (changed bool, err error) {
	dir := filepath.Join(v.Host.UnitDir, unit.RequiresDir(v.Name))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the VM's unit links: %w", err)
	}
	for _, e := range entries {
		if !unit.OwnRequire(e.Name()) {
			continue
		}
		changed = true
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return false, fmt.Errorf("remove unit link: %w", err)
		}
	}
	_ = os.Remove(dir) // only where empty
	return changed, nil
}

// dropIns looks at the host, and returns the texts of the drop-ins that a VM of that
// plan has, by their paths; see unit.DropIns.
func (v VM) dropIns(plan *hypervisor.Plan) (map[string]string, error) {
	facts := unit.Facts{
		VM:       v.Name,
		StateDir: v.Host.StateDir, Reserved: reserved,
		RuntimeDir: v.RuntimeDir(), LibexecDir: v.Host.LibexecDir,
		Booted: v.bootedPlan(),
		Behind: func(path string) string { return behindLinks(path, nil) },
		BehindLocal: func() func(string) string {
			remote := sync.OnceValue(remoteMounts)
			return func(path string) string { return behindLinks(path, remote()) }
		}(),
		JailFile: jailFile,
	}
	if v.Host.SystemdVersion != nil {
		facts.Systemd = v.Host.SystemdVersion()
	}
	return unit.DropIns(plan, facts)
}

// bootedPlan is the plan of the package that the VM was started with; nil where
// there is none, or none that can be read.
func (v VM) bootedPlan() *hypervisor.Plan {
	p, err := v.Booted()
	if err != nil {
		return nil
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return nil
	}
	return plan
}

// writeDropIns makes the drop-ins what texts says, and removes those without one.
func (v VM) writeDropIns(texts map[string]string) (changed bool, err error) {
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		one, err := v.writeDropIn(path, texts[path])
		if err != nil {
			return changed, err
		}
		changed = changed || one
	}
	return changed, nil
}

// dropInMode is that of every unit file: units are public.
const dropInMode = 0o644

func (v VM) writeDropIn(name, text string) (changed bool, err error) {
	path := filepath.Join(v.Host.UnitDir, name)
	dir, wanted := filepath.Dir(path), text != ""
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read drop-in: %w", err)
	}
	switch {
	case wanted && string(have) == text:
		return false, errors.Join(mode.Ensure(dir, mode.Public), os.Chmod(path, dropInMode))
	case !wanted && have == nil:
		return false, nil
	case !wanted:
		err = os.Remove(path)
		_ = os.Remove(dir) // only where empty
		return true, err
	}
	if err := mode.Ensure(dir, mode.Public); err != nil {
		return false, fmt.Errorf("make drop-in: %w", err)
	}
	return true, writeFile(path, []byte(text), dropInMode)
}
