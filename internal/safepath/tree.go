package safepath

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// namesAtOnce is how many entries of a directory are read at a time.
const namesAtOnce = 1024

// RemoveAll removes the entry name of dir with all its content, at any depth: it
// needs only a few descriptors and no stack, because it moves the entries of a
// subdirectory up before it removes the subdirectory. It follows no link and crosses
// no mount point, for which the error is EBUSY.
func RemoveAll(dir int, name string) error {
	err := unlink(dir, name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	top, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = top.Close() }()
	t := tree{top: top, prefix: rand.Text()}
	if err := empty(top, t.removeEntry); err != nil {
		return err
	}
	return unlink(dir, name)
}

// tree is a directory that is being removed.
type tree struct {
	top *os.File
	// prefix begins the names of entries that were moved up.
	prefix string
	moved  int
}

// removeEntry removes an entry of top, after moving its entries up.
func (t *tree) removeEntry(name string) error {
	err := unlink(fd(t.top), name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	sub, err := openDir(fd(t.top), name)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	if err := empty(sub, func(name string) error { return t.moveUp(sub, name) }); err != nil {
		return err
	}
	return unlink(fd(t.top), name)
}

// moveUp removes an entry of sub, or moves it to top if it is a directory that is not
// empty.
func (t *tree) moveUp(sub *os.File, name string) error {
	err := unlink(fd(sub), name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	t.moved++
	err = unix.Renameat(fd(sub), name, fd(t.top), t.prefix+strconv.Itoa(t.moved))
	if errors.Is(err, unix.EXDEV) {
		return RemoveAll(fd(sub), name) // a btrfs subvolume or an overlay layer
	}
	return wrap(err, "move", name)
}

// empty calls remove for the entries of a directory until none is left or none can be
// removed.
func empty(dir *os.File, remove func(name string) error) error {
	for {
		removed, failed, err := pass(dir, remove)
		if err != nil || removed == 0 {
			return errors.Join(err, failed)
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// pass calls remove once for each entry that it sees. Removals may make readdir(3)
// skip entries, so one pass may not be enough.
func pass(dir *os.File, remove func(name string) error) (removed int, failed, err error) {
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := remove(name); err != nil {
				failed = err
				continue
			}
			removed++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) { // removed meanwhile
			return removed, failed, nil
		}
		if err != nil {
			return removed, failed, err
		}
	}
}

// unlink removes one entry. The error is ENOTEMPTY for a directory that is not empty.
func unlink(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return wrap(err, "remove", name)
}

func openDir(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, wrap(err, "open", name)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func fd(f *os.File) int { return int(f.Fd()) }

func wrap(err error, what, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", what, name, err)
}
