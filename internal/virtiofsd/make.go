package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sourceMode is that of a source that is made, as with microvm.nix.
const sourceMode = 0o775

// MakeDir makes the directory rel beneath the directory at root, which has no links
// in its path that others than root can change, where it is missing: for the
// hypervisor's user, as Run makes sources, and what is missing above it for root. No
// link is followed beneath root, and what is there stays as it is. Nothing is made
// where mayMake says no of the whole path.
func MakeDir(root, rel string, uid, gid int, mayMake func(path string) bool) error {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(at)
	fd, err := openBeneath(at, rel)
	if err == nil {
		closeFD(fd)
		return nil
	}
	if err != unix.ENOENT {
		return explainLink(err, "source", rel)
	}
	if !mayMake(filepath.Join(root, rel)) {
		return nil
	}
	parent, err := makeBeneath(at, filepath.Dir(rel))
	if err != nil {
		return explainLink(err, "source", rel)
	}
	defer closeFD(parent)
	if err := mkdirAs(parent, filepath.Base(rel), sourceMode, uid, gid); err != nil && err != unix.EEXIST {
		return explainLink(err, "source", rel)
	}
	return nil
}

// RemoveLeft removes the named sockets and regular files beneath the directory at
// root, which another program than this one left there. What is something else, and
// what a link leads to, stays.
func RemoveLeft(root string, names []string) error {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(at)
	var faults []error
	for _, name := range names {
		if err := removeLeft(at, name); err != nil {
			faults = append(faults, fmt.Errorf("remove %q: %w", filepath.Join(root, name), err))
		}
	}
	return errors.Join(faults...)
}

func removeLeft(root int, name string) error {
	dir, err := openBeneath(root, filepath.Dir(name))
	if missing(err) || err == unix.ELOOP {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(dir)
	var st unix.Stat_t
	err = unix.Fstatat(dir, filepath.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFSOCK && kind != unix.S_IFREG {
		return nil
	}
	return unix.Unlinkat(dir, filepath.Base(name), 0)
}
