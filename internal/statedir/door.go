package statedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/runner"
)

// maxLinks is the kernel's, path_resolution(7).
const maxLinks = 40

// RealStateDir is the state directory without links: it, or a directory above it,
// may be a link of root's to another disk. A link that somebody else could change
// is an error. Everything that is written down has StateDir all the same, as the
// units have it, and means the same if root moves the directory again.
func (h Host) RealStateDir() (string, error) {
	if !filepath.IsAbs(h.StateDir) {
		return h.StateDir, nil
	}
	at, todo := "/", strings.Split(filepath.Clean(h.StateDir), "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		next := filepath.Join(at, name) // at has no links, so ".." is what it says
		var st unix.Stat_t
		err := unix.Lstat(next, &st)
		if errors.Is(err, unix.ENOENT) {
			return filepath.Join(append([]string{next}, todo...)...), nil
		}
		if err != nil {
			return "", fmt.Errorf("look at %s: %w", next, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		if err := h.trustLink(at, next, st.Uid); err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("state directory %s: %w", h.StateDir, unix.ELOOP)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", fmt.Errorf("state directory: %w", err)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// trustLink refuses a link that others than root, or the caller, could change.
func (h Host) trustLink(dir, link string, owner uint32) error {
	const hint = "move the directory itself there, or remove the link and make it as root with: ln -s"
	if owner != 0 && int(owner) != os.Geteuid() {
		return exit.WithHint(fmt.Errorf("state directory %s: %s is a link of user %d, who could make it lead anywhere", h.StateDir, link, owner), hint)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	others := st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 && st.Mode&unix.S_ISVTX == 0
	if others || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return exit.WithHint(fmt.Errorf("state directory %s: others than root could replace the link %s", h.StateDir, link), hint)
	}
	return nil
}

// openTrusted opens a package as runner.OpenTrusted does. Below the state directory
// it is known by StateDir, whatever links lead there.
func (h Host) openTrusted(path string) (*runner.Package, error) {
	real, err := h.RealStateDir()
	if err != nil {
		return nil, err
	}
	if rel, ok := below(h.StateDir, path); ok {
		path = filepath.Join(real, rel)
	}
	p, err := runner.OpenTrusted(path)
	if err != nil {
		return nil, err
	}
	if rel, ok := below(real, p.Dir()); ok {
		p.SetDir(filepath.Join(h.StateDir, rel))
	}
	return p, nil
}

// below is path from dir on, where it is below it.
func below(dir, path string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, "../")
}
