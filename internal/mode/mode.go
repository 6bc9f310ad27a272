// Package mode creates directories whose mode and owner depend neither on the umask
// nor on the caller's group nor on the parent's set-group-ID bit.
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

// Public is the mode of a directory that only its owner writes and every user reads.
const Public fs.FileMode = 0o755

// Dir creates a directory. The error is fs.ErrExist if the name exists.
func Dir(path string, mode fs.FileMode) error {
	at, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = safepath.Mkdir(at, filepath.Base(path), As(mode))
		safepath.Close(at)
	}
	if errors.Is(err, safepath.ErrReplaced) {
		err = unix.EEXIST // removed and created again meanwhile, by another program of ours
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// As returns the mode and the owner to give to a new directory. Root's belong to
// root and its group; other users' keep the owner that they get.
func As(mode fs.FileMode) safepath.As {
	id := -1
	if os.Geteuid() == 0 {
		id = 0
	}
	return safepath.As{Mode: uint32(mode.Perm()), UID: id, GID: id}
}

// DirAll creates a directory with missing parents. Directories that exist are not
// changed.
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
	if errors.Is(err, fs.ErrExist) { // created meanwhile, with the same mode
		return nil
	}
	if err != nil {
		return err
	}
	// If a power failure lost the directory, it would lose what is committed in it.
	if err := durable.Dir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// Ensure creates a directory as DirAll does. If it exists and the caller owns it,
// it gets the mode: it was created under another umask, or changed since.
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

// set sets the mode of a directory that the caller owns and, if that is root, its
// owner. It follows no link, and works on a directory without any permission, as a
// umask may create it.
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
