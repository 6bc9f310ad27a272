// Package safepath opens, makes, removes and connects to what is beneath a
// directory in which somebody else may write, and walks a path to find out
// whether anybody but root could have made it lead where it leads.
//
// Each of these is written here once, and attacked here once. Who may write in
// such a directory can exchange any name in it at any moment, for a link, a pipe,
// a device or another directory. So:
//
//   - nothing is looked up twice. A directory is held open and what is in it is
//     looked up through that handle, which no rename can bend; what was looked at
//     and what is used are the same open file.
//   - beneath a directory the kernel itself refuses to follow links, openat2(2)
//     with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS. The
//     errors are ELOOP for a link, EXDEV for a path that leads out.
//   - where links have to be followed, for operators make some, this package does
//     it, one component a step, and asks for leave at each of them: see Walk and
//     WalkTrusted.
//   - an open file without access to its content, O_PATH in open(2), is a handle.
//     It opens no device, waits for no pipe and needs no right to the file.
//
// Mount points on the way are crossed: only root makes them. The exception is
// FUSE, by which a user can mount in a directory of his own; what such a file
// system says of owners is that user's word, but others, root included, see
// nothing of it unless root set user_allow_other, mount.fuse(8).
//
// The package imports nothing of this project. Errors of system calls are
// returned as they are: the callers know what the path was for.
package safepath

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// handle is a directory that is held to look up names in, not to be read.
	handle = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	// noLinks is how everything beneath a directory is looked up, openat2(2).
	noLinks = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	// maxTries bounds how often openat2(2) is called again: with EAGAIN it gives up
	// on ".." beside a rename, and who renames all the time must not hold us up.
	maxTries = 16
)

// ErrReplaced means that somebody put something else in the place of what was
// just made. It is an EPERM.
var ErrReplaced = fmt.Errorf("it was replaced while it was made: %w", unix.EPERM)

// ErrNotRegular is the error where a regular file was wanted.
var ErrNotRegular = errors.New("not a regular file")

// openat2 opens path in dir and calls again where a signal or a rename came
// between, openat2(2).
func openat2(dir int, path string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(dir, path, &how)
		if (err == unix.EAGAIN || err == unix.EINTR) && try < maxTries {
			continue
		}
		return fd, err
	}
}

// OpenDir returns a handle of the directory at path, which the caller closes. The
// directories above it are the caller's word; path itself must not be a link.
func OpenDir(path string) (int, error) {
	return unix.Open(path, handle|unix.O_NOFOLLOW, 0)
}

// OpenBeneath opens rel beneath the directory dir with the flags of open(2) and
// follows no link. The caller closes the descriptor.
//
// Anything may be there: with flags that open for access add O_NONBLOCK, or a
// pipe keeps the caller waiting, and better use OpenFile.
func OpenBeneath(dir int, rel string, flags int) (int, error) {
	return openat2(dir, rel, uint64(flags), noLinks)
}

// OpenDirBeneath returns a handle of the directory rel beneath dir.
func OpenDirBeneath(dir int, rel string) (int, error) { return OpenBeneath(dir, rel, handle) }

// OpenFile opens the regular file rel beneath dir for reading and follows no
// link. Anything else is ErrNotRegular, and neither waited for nor set off.
func OpenFile(dir int, rel string) (*os.File, error) {
	fd, err := OpenBeneath(dir, rel, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer Close(fd)
	f, err := ReopenFile(fd, rel)
	if err == ErrNoProc {
		return OpenSame(dir, rel, fd)
	}
	return f, err
}

// OpenInside opens rel beneath dir as OpenBeneath does, but follows links that
// stay beneath dir. It is for directories in which only one party writes.
func OpenInside(dir int, rel string, flags int) (int, error) {
	return openat2(dir, rel, uint64(flags), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenPlain returns a handle of the directory at the absolute path, which goes
// through no link; ELOOP where it does.
func OpenPlain(path string) (int, error) {
	return openat2(unix.AT_FDCWD, path, handle, unix.RESOLVE_NO_SYMLINKS)
}

// ErrNoProc is the error where /proc is not mounted, as in the root directory of a
// jail for a command that systemd runs with all privileges. A handle cannot be
// opened for access there; see OpenSame.
var ErrNoProc = errors.New("/proc is not mounted")

// OpenSame opens the regular file rel beneath dir for reading, where there is no
// /proc. Links that stay beneath dir are followed. ErrReplaced is the error if it is
// not what fd is a handle of: whoever writes in dir was faster.
func OpenSame(dir int, rel string, fd int) (*os.File, error) {
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return nil, err
	}
	if want.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	// Not waited for if it is a pipe by now, and no terminal of ours if it is one.
	again, err := OpenInside(dir, rel, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(again, &have); err != nil {
		Close(again)
		return nil, err
	}
	if idOf(&have) != idOf(&want) {
		Close(again)
		return nil, ErrReplaced
	}
	return os.NewFile(uintptr(again), rel), nil
}

// ReopenFile opens the regular file that fd is a handle of for reading. name is
// what the result calls itself. ErrNoProc is the error where there is no /proc.
func ReopenFile(fd int, name string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	// The way that proc(5) has to open what a descriptor stands for.
	file, err := unix.Open(ProcPath(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT { // the file itself is there: it is open
		return nil, ErrNoProc
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(file), name), nil
}

// ProcPath is a path of what is open as fd in this process, proc_pid_fd(5): for
// calls that take a path and no handle.
func ProcPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Close closes a handle, where an error has no meaning.
func Close(fd int) { _ = unix.Close(fd) }

// ID identifies a file among all of the host while it is held open, or is not
// removed, stat(2).
type ID struct{ Dev, Ino uint64 }

// IDOf returns the identity of an open file.
func IDOf(fd int) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return idOf(&st), nil
}

// IDAt returns the identity of what path leads to.
func IDAt(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, err
	}
	return idOf(&st), nil
}

func idOf(st *unix.Stat_t) ID { return ID{uint64(st.Dev), st.Ino} }

// Chown gives what fd is open on, by a handle or otherwise, to a user and a group.
// -1 leaves one of them, chown(2).
func Chown(fd, uid, gid int) error {
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// Chmod sets the mode of what fd is open on. It goes through /proc because
// fchmod(2) refuses a handle.
func Chmod(fd int, mode uint32) error { return unix.Chmod(ProcPath(fd), mode) }

// ReadLink reads the link that the handle stands for, not one of its name,
// readlink(2).
func ReadLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
