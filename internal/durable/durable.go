// Package durable makes changes to files last over a loss of power. A rename puts
// a new file in the place of an old one for whoever looks; after a loss of power
// the name may lead to a file without its content, or to the old one, unless the
// content is on the disk before the rename and the directory after it: fsync(2).
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

// Dir waits until the names in a directory are on the disk: those that were made,
// renamed or removed in it. Links are followed, as a rename in it does.
func Dir(path string) error {
	return sync(path, 0)
}

// Tree waits until all files and directories below root, and root, are on the
// disk. Unlike syncfs(2) it does not wait for what others write meanwhile, which
// on a host with busy guests can be minutes' worth.
func Tree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || d.Type().IsRegular() {
			return sync(path, unix.O_NOFOLLOW)
		}
		return nil // a link is part of its directory
	})
}

// Rename renames a file or directory, over what is there, and returns when that is
// on the disk. What is renamed has to be there already.
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
	// A pipe of that name blocks nobody.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	err = f.Sync()
	// Some file systems have no such call for directories: they promise no more.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write %s to disk: %w", path, err)
	}
	return nil
}
