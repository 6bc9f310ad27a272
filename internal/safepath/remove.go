package safepath

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveIfSame removes rel beneath dir if it still is the file id and of that kind:
// the inode number of a removed file may be reused. It is not an error if rel does
// not exist or is another file.
func RemoveIfSame(dir int, rel string, kind uint32, id ID) error {
	return removeIf(dir, rel, func(st *unix.Stat_t) bool { return idOf(st) == id && st.Mode&unix.S_IFMT == kind })
}

// RemoveKind removes rel beneath dir if it is of a kind: S_IFSOCK, S_IFREG or S_IFDIR
// of inode(7). It is not an error if rel does not exist, is of another kind, or is a
// directory that is not empty.
func RemoveKind(dir int, rel string, kind uint32) error {
	err := removeIf(dir, rel, func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == kind })
	if kind == unix.S_IFDIR && (errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)) { // either, rmdir(2)
		return nil
	}
	return err
}

// RemoveStale removes files that an earlier run left beneath the directory dir, as
// RemoveKind does. It stops at the first error.
func RemoveStale(dir string, kind uint32, names ...string) error {
	root, err := OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer Close(root)
	for _, name := range names {
		if err := RemoveKind(root, name, kind); err != nil {
			return fmt.Errorf("remove stale %s: %w", name, err)
		}
	}
	return nil
}

// removeIf removes rel beneath dir if wanted returns true for it. It follows no link;
// if the last component is a link, wanted gets the link.
//
// No system call removes an open file, so another file can take the name between
// check and removal. It can only be a file that a user who may write in this
// directory put there, and never a directory instead of a file or the reverse.
func removeIf(dir int, rel string, wanted func(*unix.Stat_t) bool) error {
	parent, err := OpenDirBeneath(dir, filepath.Dir(rel))
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer Close(parent)
	name := filepath.Base(rel)
	var st unix.Stat_t
	err = unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT || err == nil && !wanted(&st) {
		return nil
	}
	if err != nil {
		return err
	}
	flags := 0
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(parent, name, flags); err != unix.ENOENT {
		return err
	}
	return nil
}
