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

// tempPrefix marks what a crash may leave behind; the next change removes it.
const tempPrefix = ".microvm-new-"

// tempName is a name beside path that nothing has.
func tempName(path string) string {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand
	return filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-"+hex.EncodeToString(random[:]))
}

// writeFile replaces the file at path, whatever it is. A loss of power leaves the
// old one or the new one: the rename is the commit.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := replaceFile(path, data, mode, (*os.File).Sync); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}

// copyFile is writeFile for what nothing depends on.
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

// writeLink replaces what is at path by a symbolic link, and returns when that is
// on the disk.
func writeLink(target, path string) error {
	if err := copyLink(target, path); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}

// copyLink is writeLink for what nothing depends on.
func copyLink(target, path string) error {
	tmp := tempName(path)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("make link %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make link %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// mostNames is how many entries of a directory that a hypervisor can fill are
// looked at.
const mostNames = 4096

// leftIn are the names of what a crash may have left in dir of changes of the
// file base, or of any where it is empty.
func leftIn(dir, base string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(mostNames)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	prefix := tempPrefix
	if base != "" {
		prefix += base + "-"
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}

// removeLeftoversOf removes what a crash left of the changes of one file. Unlike
// removeLeftovers it does not disturb who changes another just now.
func removeLeftoversOf(path string) error {
	names, err := leftIn(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	for _, name := range names {
		left := filepath.Join(filepath.Dir(path), name)
		if err := unix.Unlink(left); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) {
			return fmt.Errorf("remove leftover %s: %w", left, err)
		}
	}
	return nil
}

// removeFilesLeft removes what a crash left in the directory of a VM, whose
// hypervisor may be filling it meanwhile: files of root's, which ours are, and
// never a tree. Those of booted are left to ClearBooted, as a start that makes
// one just now waits for nobody.
func removeFilesLeft(dir string) error {
	names, err := leftIn(dir, "")
	for _, name := range names {
		var st unix.Stat_t
		left := filepath.Join(dir, name)
		if strings.HasPrefix(name, tempPrefix+"booted-") {
			continue
		}
		if err := unix.Lstat(left, &st); err == nil && st.Uid == 0 {
			_ = unix.Unlink(left) // what cannot be removed is in nobody's way
		}
	}
	return err
}

// removeLeftovers removes what a crash left in dir, in which only root writes.
func removeLeftovers(dir string) error {
	names, err := leftIn(dir, "")
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	if err != nil {
		return fmt.Errorf("remove leftovers: %w", err)
	}
	return nil
}

// clearName makes a name in a VM's directory free. A directory is moved aside:
// what a hypervisor put into it may be more than can be removed.
func clearName(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.EISDIR) {
		err = os.Rename(path, tempName(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s, which is not root's: %w", path, err)
	}
	return nil
}
