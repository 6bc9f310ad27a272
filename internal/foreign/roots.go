package foreign

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLinks is the number of symbolic links on one path that is followed, as in
// path_resolution(7).
const maxLinks = 40

// OnlyRoots makes sure that nobody but root can change what the path of a program
// leads to: every directory and link on the way, and the file itself.
func OnlyRoots(path string) error {
	at := "/"
	todo := strings.Split(filepath.Clean(path), "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" {
			continue
		}
		// A ".." of a link is resolved on a path that has no links left.
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return err
		}
		if err := rootOnly(next, info); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is no program", at)
	}
	return nil
}

// rootOnly refuses what somebody other than root could replace or change. A
// sticky directory passes, as /nix/store is one: what root owns in it stays.
func rootOnly(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner known", path)
	}
	if st.Uid != 0 {
		return fmt.Errorf("%s belongs to user %d, and root executes only what is root's; change its owner", path, st.Uid)
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Errorf("%s is writable by others than root; take that away with chmod go-w", path)
	}
	return nil
}
