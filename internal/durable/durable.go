// Package durable makes changes to files survive a power failure. A rename replaces
// a file atomically for other processes. After a power failure, however, the name
// may lead to a file without its content, or to the old file, unless the content
// was written to disk before the rename and the directory after it: fsync(2).
//
// The order of a change is: write, [Tree] or the file's own Sync, rename, [Dir].
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir waits until the entries of a directory are on disk: names that were created,
// renamed or removed in it. It follows symbolic links, as a rename in it does.
func Dir(path string) error {
	return sync(path, 0)
}

// Tree waits until root and all files and directories below it are on disk. Unlike
// syncfs(2), it does not wait for what other processes write meanwhile, which can
// take minutes on a host with busy guests.
func Tree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || d.Type().IsRegular() {
			return sync(path, unix.O_NOFOLLOW)
		}
		return nil // a symbolic link is part of its directory
	})
}

// Rename renames a file or directory, replacing to, and waits until the rename is
// on disk. The content of from must be on disk already.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if dir := filepath.Dir(from); dir != filepath.Dir(to) {
		if err := Dir(dir); err != nil {
			return err
		}
	}
	return Dir(filepath.Dir(to))
}

func sync(path string, flags int) error {
	// O_NONBLOCK: the open does not block if the path is a FIFO.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	err = f.Sync()
	// Some file systems cannot sync directories. Nothing more can be done on them.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fsync %s: %w", path, err)
	}
	return nil
}
