// Package mode makes directories whose mode and owner do not depend on who makes
// them: neither on the umask, nor on the caller's group, nor on the set-group-ID
// bit of the directory around them.
package mode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/safepath"
)

// Public is the mode of a directory that root alone writes and everybody reads.
const Public fs.FileMode = 0o755

// Dir makes a directory. The error is fs.ErrExist where the name is taken.
func Dir(path string, mode fs.FileMode) error {
	at, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = safepath.Mkdir(at, filepath.Base(path), As(mode))
		safepath.Close(at)
	}
	if errors.Is(err, safepath.ErrReplaced) {
		err = unix.EEXIST // removed and made again meanwhile, by another program of ours
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// As is the mode with the owner of what root makes, which is root's group's, too;
// what others make belongs to them anyway.
func As(mode fs.FileMode) safepath.As {
	id := -1
	if os.Geteuid() == 0 {
		id = 0
	}
	return safepath.As{Mode: uint32(mode.Perm()), UID: id, GID: id}
}

// DirAll makes a directory with those above it that are missing. Those that are
// there stay as they are.
func DirAll(path string, mode fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := DirAll(filepath.Dir(path), mode); err != nil {
		return err
	}
	err = Dir(path, mode)
	if errors.Is(err, fs.ErrExist) { // made meanwhile, by the same rule
		return nil
	}
	if err != nil {
		return err
	}
	// What is committed in it is lost with it.
	if err := durable.Dir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// Ensure makes a directory as DirAll does. One that is there and is the caller's
// gets the mode: it was made under another umask, or changed since.
func Ensure(path string, mode fs.FileMode) error {
	if err := DirAll(path, mode); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o7777 == uint32(mode.Perm()) {
		return nil
	}
	return set(path, mode)
}

// set gives a directory of ours its mode, and to root's own its owner. It works on
// what has no permission at all, as a umask may make it, and follows no link.
func set(path string, mode fs.FileMode) error {
	fd, err := safepath.OpenDir(path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer safepath.Close(fd)
	as := As(mode)
	if err := safepath.Chown(fd, as.UID, as.GID); err != nil {
		return &fs.PathError{Op: "chown", Path: path, Err: err}
	}
	if err := safepath.Chmod(fd, as.Mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}
