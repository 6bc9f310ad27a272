package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// jailFile says whether the service manager, which is root, may follow path at
// any later start: only root can make it lead to something else, and it leads to
// a file. From the top down, each directory that passed can only be changed by
// root, so names are as good as descriptors here.
func jailFile(path string) error {
	at, todo := "/", strings.Split(path[1:], "/")
	for links := 0; len(todo) > 0; {
		if err := onlyRootChanges(at); err != nil {
			return err
		}
		next := filepath.Join(at, todo[0])
		todo = todo[1:]
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // and only root can make it
		case err != nil:
			return err
		case info.IsDir():
			at = next
		case info.Mode()&fs.ModeSymlink == 0:
			if len(todo) > 0 {
				return fmt.Errorf("%s is no directory", next)
			}
			return nil
		default:
			if links++; links > maxJailLinks {
				return fmt.Errorf("more than %d links on the way", maxJailLinks)
			}
			target, err := os.Readlink(next)
			if err != nil {
				return err
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			todo = append(strings.Split(strings.Trim(target, "/"), "/"), todo...)
		}
	}
	return errors.New("it is a directory, and a jail has files only")
}

// maxJailLinks is the kernel's, path_resolution(7).
const maxJailLinks = 40

func onlyRootChanges(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Uid != 0 {
		return fmt.Errorf("directory %s belongs to user %d, who could put anything there; it has to be root's", dir, st.Uid)
	}
	if st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 {
		return fmt.Errorf("others than root can write to directory %s (mode %04o)", dir, st.Mode&0o7777)
	}
	return nil
}
