package statedir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
)

// tempPrefix begins the names of temporary files. The next change removes those that
// a crash left behind.
const tempPrefix = ".microvm-new-"

// tempName returns a name in the directory of path that no file has.
func tempName(path string) string {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand
	return filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-"+hex.EncodeToString(random[:]))
}

// writeFile replaces the file at path, of any type but a directory. After a power
// failure it is the old file or the new one: the rename is the commit.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := replaceFile(path, data, mode, (*os.File).Sync); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}

// copyFile is writeFile without fsync, for files on which nothing depends.
func copyFile(path string, data []byte, mode fs.FileMode) error {
	return replaceFile(path, data, mode, func(*os.File) error { return nil })
}

func replaceFile(path string, data []byte, mode fs.FileMode, sync func(*os.File) error) error {
	tmp := tempName(path)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), sync(f), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// writeLink replaces the file at path with a symbolic link, and waits until that is on
// disk.
func writeLink(target, path string) error {
	if err := copyLink(target, path); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}

// copyLink is writeLink without fsync, for links on which nothing depends.
func copyLink(target, path string) error {
	tmp := tempName(path)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("create link %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("create link %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// maxEntries is how many entries of a directory are read at once. A hypervisor can fill
// a VM's directory.
const maxEntries = 4096

// leftIn returns the names of temporary files that a crash may have left in dir: those
// of the file base, or of all files if base is empty.
func leftIn(dir, base string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find temporary files: %w", err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
		return nil, fmt.Errorf("find temporary files: %w", err)
	}
	prefix := tempPrefix
	if base != "" {
		prefix += base + "-"
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}

// removeLeftoversOf removes the temporary files that a crash left of one file. Unlike
// removeLeftovers, it does not disturb a process that changes another file.
func removeLeftoversOf(path string) error {
	names, err := leftIn(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	for _, name := range names {
		left := filepath.Join(filepath.Dir(path), name)
		if err := unix.Unlink(left); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) {
			return fmt.Errorf("remove temporary file %s: %w", left, err)
		}
	}
	return nil
}

// removeFilesLeft removes the temporary files that a crash left in the directory of a
// VM, which its hypervisor may fill meanwhile: only files that root owns, as ours are,
// and never a tree. Those of booted are left to ClearBooted, as a start, which takes no
// lock, may be creating one.
func removeFilesLeft(dir string) error {
	names, err := leftIn(dir, "")
	for _, name := range names {
		var st unix.Stat_t
		left := filepath.Join(dir, name)
		if strings.HasPrefix(name, tempPrefix+"booted-") {
			continue
		}
		if err := unix.Lstat(left, &st); err == nil && st.Uid == 0 {
			_ = unix.Unlink(left) // a file that stays does no harm
		}
	}
	return err
}

// removeLeftovers removes what a crash left in dir, in which only root writes: files
// and trees.
func removeLeftovers(dir string) error {
	names, err := leftIn(dir, "")
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	if err != nil {
		return fmt.Errorf("remove temporary files: %w", err)
	}
	return nil
}

// clearName removes a file in a VM's directory. A directory is renamed instead, as a
// hypervisor may have put more into it than can be removed in reasonable time.
func clearName(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.EISDIR) {
		err = os.Rename(path, tempName(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s, which is not owned by root: %w", path, err)
	}
	return nil
}
