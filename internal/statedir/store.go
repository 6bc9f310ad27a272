package statedir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/mode"
	"microvm/internal/rootlock"
	"microvm/internal/runner"
	"microvm/internal/spec"
)

// storeName is the directory of packages next to those of the VMs. No VM's name begins
// with a dot.
const storeName = ".store"

// reserved are the names in the state directory that are not VMs.
var reserved = []string{storeName, originName, rootlock.Name}

// nixStore is the Nix store, whose packages need not be copied.
const nixStore = "/nix/store/"

// keep returns a path at which p remains unchanged: its own in the Nix store, else that
// of a copy in the store, which is named by its content.
func (h Host) keep(p *runner.Package, name string) (string, error) {
	target, err := h.place(p, name)
	if err != nil || target == p.Dir() {
		return target, err
	}
	store := filepath.Join(h.StateDir, storeName)
	if err := mode.Ensure(store, mode.Public); err != nil { // packages are public
		return "", fmt.Errorf("create package store: %w", err)
	}
	_ = removeLeftovers(store) // a file that stays does no harm
	if _, err := os.Lstat(target); err == nil {
		return target, mendModes(target)
	}
	tmp := tempName(target)
	if err := copyTree(p.Dir(), tmp); err != nil {
		return "", fmt.Errorf("copy runner package %s into the store: %w", p.Dir(), errors.Join(err, os.RemoveAll(tmp)))
	}
	if err := durable.Rename(tmp, target); err != nil {
		return "", fmt.Errorf("move runner package into the store: %w", errors.Join(err, os.RemoveAll(tmp)))
	}
	return target, nil
}

// place returns the path at which keep keeps p.
func (h Host) place(p *runner.Package, name string) (string, error) {
	if strings.HasPrefix(p.Dir(), nixStore) {
		return p.Dir(), nil
	}
	hash, err := hashTree(p.Dir())
	if err != nil {
		return "", fmt.Errorf("read runner package %s: %w", p.Dir(), err)
	}
	return filepath.Join(h.StateDir, storeName, hash+"-"+name), nil
}

// hashTree returns a name for a tree by its content: paths, types, whether executable,
// bytes.
func hashTree(root string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(sum, "%q %v %o\n", rel, d.Type(), executable(info.Mode()))
		switch {
		case d.IsDir():
			return nil
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			_, _ = fmt.Fprintf(sum, "%q\n", target)
			return err
		case d.Type().IsRegular():
			_, _ = fmt.Fprintf(sum, "%d\n", info.Size())
			return copyInto(sum, path)
		}
		return fmt.Errorf("%s is not a regular file, directory or symbolic link", path)
	})
	return hex.EncodeToString(sum.Sum(nil))[:32], err
}

func copyInto(w io.Writer, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

// copyTree copies a tree and waits until the copy is on disk.
func copyTree(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(to, rel), d)
	})
	if err != nil {
		return err
	}
	return durable.Tree(to)
}

func copyEntry(from, to string, d fs.DirEntry) error {
	if d.Type() == fs.ModeSymlink {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if d.IsDir() {
		return mode.Dir(to, mode.Public) // packages are public
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyInto(f, from)
	return errors.Join(err, f.Chmod(storeMode(info.Mode())), f.Close())
}

// storeMode returns the mode of a file in the store.
func storeMode(original fs.FileMode) fs.FileMode { return 0o444 | executable(original) }

// executable returns the execute bits of a file of a package, or the search bits of a
// directory: all or none, whatever umask the package was built or copied with.
func executable(mode fs.FileMode) fs.FileMode {
	if mode.IsDir() || mode.Perm()&0o111 != 0 && mode.IsRegular() {
		return 0o111
	}
	return mode.Perm() & 0o111
}

// mend makes a package readable for all users if it is in the store.
func (h Host) mend(dir string) error {
	store := filepath.Join(h.StateDir, storeName)
	if filepath.Dir(dir) != store {
		return nil
	}
	if err := mode.Ensure(store, mode.Public); err != nil {
		return fmt.Errorf("change mode of package store: %w", err)
	}
	return mendModes(dir)
}

// mendModes makes a package of the store readable for all users: earlier versions
// created its directories with modes that depended on the caller's umask. Only root
// writes in the package, so names are as good as descriptors here.
func mendModes(target string) error {
	err := filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := storeMode(info.Mode())
		if d.IsDir() {
			want = mode.Public
		}
		if info.Mode().Perm() == want {
			return nil
		}
		return os.Chmod(path, want) //nolint:gosec // only root creates links there
	})
	if err != nil {
		return fmt.Errorf("change mode of runner package %s: %w", target, err)
	}
	return nil
}

// CollectGarbage removes the packages of the store to which no VM's current, booted or
// old leads, and returns their paths. It also removes what killed removals of VMs left.
func (h Host) CollectGarbage() ([]string, error) {
	removed, err := h.collectPackages()
	// Without the lock: how long it takes depends on what hypervisors created.
	names, errNames := leftIn(h.StateDir, "")
	err = errors.Join(err, errNames)
	for _, name := range names {
		err = errors.Join(err, removeTree(filepath.Join(h.StateDir, name)))
	}
	return removed, err
}

func (h Host) collectPackages() ([]string, error) {
	unlock, err := h.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	store := filepath.Join(h.StateDir, storeName)
	entries, err := os.ReadDir(store)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read package store: %w", err)
	}
	alive, err := h.alive()
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, e := range entries {
		path := filepath.Join(store, e.Name())
		if alive[path] {
			continue
		}
		// The rename comes first, so a crash leaves no incomplete package of that name.
		doomed := tempName(path)
		if err := durable.Rename(path, doomed); err != nil {
			return removed, fmt.Errorf("remove unused package %s: %w", path, err)
		}
		if err := os.RemoveAll(doomed); err != nil {
			return removed, fmt.Errorf("remove unused package %s: %w", path, err)
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// alive returns the targets of all VMs' links.
func (h Host) alive() (map[string]bool, error) {
	alive := map[string]bool{}
	vms, err := h.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range vms {
		vm := VM{Host: h, Name: name}
		for _, link := range []string{
			filepath.Join(vm.Dir(), "current"), filepath.Join(vm.recordDir(), "current"), filepath.Join(vm.recordDir(), "old"),
			vm.runtimeBooted(), vm.copyOfBooted(),
		} {
			if target, err := os.Readlink(link); err == nil {
				alive[target] = true
			}
		}
	}
	return alive, nil
}

// Names returns the names of the host's VMs.
func (h Host) Names() ([]string, error) {
	dir, err := h.RealStateDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list VMs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if spec.ValidateVMName(e.Name()) == nil && e.IsDir() && !(VM{Host: h, Name: e.Name()}).vacant() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
