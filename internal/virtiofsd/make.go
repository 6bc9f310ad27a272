package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// sourceMode is that of a source that is made, as with microvm.nix.
const sourceMode = 0o775

// MakeDir makes the directory rel beneath the directory at root, which has no links
// in its path that others than root can change, where it is missing: for the
// hypervisor's user, as Run makes sources, and what is missing above it for root. No
// link is followed beneath root, and what is there stays as it is. Nothing is made
// where mayMake says no of the whole path.
func MakeDir(root, rel string, uid, gid int, mayMake func(path string) bool) error {
	at, err := safepath.OpenDir(root)
	if err != nil {
		return err
	}
	defer safepath.Close(at)
	fd, err := safepath.OpenDirBeneath(at, rel)
	if err == nil {
		safepath.Close(fd)
		return nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return explainLink(err, "source", rel)
	}
	if !mayMake(filepath.Join(root, rel)) {
		return nil
	}
	parent, err := safepath.MkdirBeneath(at, filepath.Dir(rel), safepath.As{Mode: 0o755})
	if err != nil {
		return explainLink(err, "source", rel)
	}
	defer safepath.Close(parent)
	as := safepath.As{Mode: sourceMode, UID: uid, GID: gid}
	if err := safepath.Mkdir(parent, filepath.Base(rel), as); err != nil && !errors.Is(err, unix.EEXIST) {
		return explainLink(err, "source", rel)
	}
	return nil
}

// RemoveLeft removes the named sockets and regular files beneath the directory at
// root, which another program than this one left there. What is something else, and
// what a link leads to, stays.
func RemoveLeft(root string, names []string) error {
	at, err := safepath.OpenDir(root)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer safepath.Close(at)
	var faults []error
	for _, name := range names {
		for _, kind := range []uint32{unix.S_IFSOCK, unix.S_IFREG} {
			err := safepath.RemoveKind(at, name, kind)
			if err != nil && !missing(err) && !errors.Is(err, unix.ELOOP) {
				faults = append(faults, fmt.Errorf("remove %q: %w", filepath.Join(root, name), err))
			}
		}
	}
	return errors.Join(faults...)
}
