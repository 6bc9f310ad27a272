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

// storeName is the directory of packages beside the VMs. Its dot keeps it from
// being a VM's name.
const storeName = ".store"

// reserved are the names in the state directory that are root's and no VM's.
var reserved = []string{storeName, originName, rootlock.Name}

// nixStore keeps its packages itself.
const nixStore = "/nix/store/"

// keep returns where p stays unchanged: itself in the Nix store, else a copy
// in the store, named by its content.
func (h Host) keep(p *runner.Package, name string) (string, error) {
	target, err := h.place(p, name)
	if err != nil || target == p.Dir() {
		return target, err
	}
	store := filepath.Join(h.StateDir, storeName)
	if err := mode.Ensure(store, mode.Public); err != nil { // packages are public
		return "", fmt.Errorf("make the store: %w", err)
	}
	_ = removeLeftovers(store) // what cannot be removed is in nobody's way
	if _, err := os.Lstat(target); err == nil {
		return target, mendModes(target)
	}
	tmp := tempName(target)
	if err := copyTree(p.Dir(), tmp); err != nil {
		return "", fmt.Errorf("copy runner package %s into the store: %w", p.Dir(), errors.Join(err, os.RemoveAll(tmp)))
	}
	if err := durable.Rename(tmp, target); err != nil {
		return "", fmt.Errorf("put runner package into the store: %w", errors.Join(err, os.RemoveAll(tmp)))
	}
	return target, nil
}

// place is where keep keeps p.
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

// hashTree names a tree by its content: paths, kinds, whether executable, bytes.
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
		return fmt.Errorf("%s is neither a file, a directory nor a link", path)
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

// copyTree copies a tree and makes it safe against a loss of power.
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

// storeMode is the mode of a file in the store.
func storeMode(original fs.FileMode) fs.FileMode { return 0o444 | executable(original) }

// executable is who may execute a file of a package, or search a directory:
// everybody or nobody, whatever umask the package was made or copied with.
func executable(mode fs.FileMode) fs.FileMode {
	if mode.IsDir() || mode.Perm()&0o111 != 0 && mode.IsRegular() {
		return 0o111
	}
	return mode.Perm() & 0o111
}

// mend lets everybody read a package of the store, and nothing else.
func (h Host) mend(dir string) error {
	store := filepath.Join(h.StateDir, storeName)
	if filepath.Dir(dir) != store {
		return nil
	}
	if err := mode.Ensure(store, mode.Public); err != nil {
		return fmt.Errorf("let everybody read the store: %w", err)
	}
	return mendModes(dir)
}

// mendModes makes a package of the store readable for all. One that an earlier
// version made has what the umask of its caller left of the directories' modes.
// Only root writes in it, so that names are as good as descriptors here.
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
		return os.Chmod(path, want) //nolint:gosec // root alone makes links there
	})
	if err != nil {
		return fmt.Errorf("let everybody read runner package %s: %w", target, err)
	}
	return nil
}

// CollectGarbage removes the packages of the store that no VM's current,
// booted or old leads to, and returns their paths. It removes as well what
// removals of VMs left that were killed.
func (h Host) CollectGarbage() ([]string, error) {
	removed, err := h.collectPackages()
	// Without the lock: hypervisors decided how long it takes.
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
		return nil, fmt.Errorf("read the store: %w", err)
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
		// The rename first: a crash leaves no half package under its name.
		doomed := tempName(path)
		if err := durable.Rename(path, doomed); err != nil {
			return removed, fmt.Errorf("collect %s: %w", path, err)
		}
		if err := os.RemoveAll(doomed); err != nil {
			return removed, fmt.Errorf("collect %s: %w", path, err)
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// alive is what the VMs' links lead to.
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

// Names lists the VMs of the host.
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
		return nil, fmt.Errorf("list the VMs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if spec.ValidateVMName(e.Name()) == nil && e.IsDir() && !(VM{Host: h, Name: e.Name()}).vacant() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
