package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// sourceMode is the mode of a source directory that is created, as in microvm.nix.
const sourceMode = 0o775

// MakeDir creates the directory rel beneath root unless it exists. Like a source that
// Run creates, it belongs to uid and gid; missing parent directories belong to root.
// The path root must have no links that anyone but root can change; beneath it no
// link is followed. An existing directory is left unchanged. Nothing is created if
// mayMake returns false for the full path.
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

// RemoveLeft removes those of the named files beneath root that are sockets or regular
// files. They were left by another program. Other kinds of files are kept, and links
// are not followed. A missing root is not an error.
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
