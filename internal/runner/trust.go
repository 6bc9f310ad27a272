package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// UntrustedError says why root will not read a package: somebody else than
// root could have put it there, or could change it meanwhile.
type UntrustedError struct {
	Path, Reason string
}

// Error implements error.
func (e *UntrustedError) Error() string {
	return fmt.Sprintf("%s is not trusted: %s; give it to root alone (chown root, chmod go-w), or install the VM again", e.Path, e.Reason)
}

const (
	maxLinks     = 40 // as the kernel, path_resolution(7)
	otherWrite   = unix.S_IWGRP | unix.S_IWOTH
	stickyWrites = unix.S_ISVTX
)

// OpenTrusted follows link, such as /var/lib/microvms/web/booted, to a package
// and opens it, if nobody but root could have made or changed any of it: the
// link and every link on the way are root's, every directory on the way is
// root's and writable by nobody else. Two sticky directories are accepted, in
// which others cannot replace an entry of root's: the one that holds link
// itself, and /nix/store. Anything else is an UntrustedError.
//
// The walk holds each directory open and looks at each entry through it, so
// that nothing can be exchanged between the look and the use.
func OpenTrusted(link string) (*Package, error) {
	w := &walk{}
	defer w.close()
	if err := w.root(); err != nil {
		return nil, err
	}
	if err := w.follow(filepath.Clean(link)); err != nil {
		return nil, err
	}
	return w.open()
}

// walk is a path resolution in progress.
type walk struct {
	// fds are the directories from the root down to where the walk is.
	fds   []int
	names []string
	links int
}

func (w *walk) close() {
	for _, fd := range w.fds {
		_ = unix.Close(fd)
	}
}

func (w *walk) path() string { return "/" + strings.Join(w.names, "/") }

func (w *walk) root() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	w.fds = append(w.fds, fd)
	return nil
}

// follow resolves path, absolute or relative to where the walk is.
func (w *walk) follow(path string) error {
	if filepath.IsAbs(path) {
		w.up(len(w.names))
	}
	for _, name := range strings.Split(path, "/") {
		switch name {
		case "", ".":
		case "..":
			w.up(min(1, len(w.names)))
		default:
			if err := w.step(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) up(levels int) {
	for range levels {
		last := len(w.fds) - 1
		_ = unix.Close(w.fds[last])
		w.fds = w.fds[:last]
		w.names = w.names[:len(w.names)-1]
	}
}

// step goes to one entry of the current directory: into a directory, or along
// a link.
func (w *walk) step(name string) error {
	dir := w.fds[len(w.fds)-1]
	at := filepath.Join(w.path(), name)
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", at, err)
	}
	sticky := w.links == 0 || w.path() == "/nix/store"
	if err := trusted(dir, w.path(), fd, at, sticky); err != nil {
		_ = unix.Close(fd)
		return err
	}
	target, err := readLink(fd)
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("read link %s: %w", at, err)
	}
	if target == "" {
		w.fds, w.names = append(w.fds, fd), append(w.names, name)
		return nil
	}
	_ = unix.Close(fd)
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("follow %s: more than %d links on the way", at, maxLinks)
	}
	return w.follow(target)
}

// trusted says whether only root could have put the entry fd into directory
// dir and can change it. stickyOK accepts a directory that others can write to,
// but in which they cannot replace root's entries.
func trusted(dir int, dirPath string, fd int, path string, stickyOK bool) error {
	var d, e unix.Stat_t
	if err := unix.Fstat(dir, &d); err != nil {
		return fmt.Errorf("look at %s: %w", dirPath, err)
	}
	if err := unix.Fstat(fd, &e); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if d.Uid != 0 {
		return &UntrustedError{dirPath, fmt.Sprintf("the directory belongs to user %d, not to root", d.Uid)}
	}
	if d.Mode&otherWrite != 0 && (d.Mode&stickyWrites == 0 || !stickyOK) {
		return &UntrustedError{dirPath, fmt.Sprintf("others than root can write to the directory (mode %04o)", d.Mode&0o7777)}
	}
	if e.Uid != 0 {
		return &UntrustedError{path, fmt.Sprintf("it belongs to user %d, not to root", e.Uid)}
	}
	return nil
}

// readLink returns the target of the link fd, or "" where fd is no link.
func readLink(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// open opens the directory that the walk has reached as a package.
func (w *walk) open() (*Package, error) {
	fd, err := unix.Openat(w.fds[len(w.fds)-1], ".", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open runner package %s: %w", w.path(), err)
	}
	p := &Package{dir: os.NewFile(uintptr(fd), w.path()), path: w.path(), trusted: true}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("look at %s: %w", w.path(), err)
	}
	if st.Uid != 0 || st.Mode&otherWrite != 0 {
		_ = p.Close()
		return nil, &UntrustedError{w.path(), "others than root can write to the package"}
	}
	return p, nil
}
