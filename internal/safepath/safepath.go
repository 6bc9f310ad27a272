// Package safepath opens, creates, removes and connects to files beneath a directory
// in which another user may write, and walks a path to check that only root could
// have determined where it leads.
//
// Each of these is implemented here once, and attacked by one suite of tests. A user
// who may write in a directory can replace any name in it at any moment: by a link,
// a FIFO, a device or another directory. So:
//
//   - No path is looked up twice. A directory is held open, and names in it are
//     looked up through that handle, which no rename can redirect. The file that is
//     checked and the file that is used are the same open file.
//   - Beneath a directory the kernel refuses to follow links, openat2(2) with
//     RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS. The errors are
//     ELOOP for a link and EXDEV for a path that leads out.
//   - Where links must be followed, since operators create some, this package
//     resolves the path itself, one component at a time, and asks for permission at
//     each: see Walk and WalkTrusted.
//   - A handle is a file that is open with O_PATH, open(2), so its content cannot be
//     accessed. To open one triggers no device driver, does not block on a FIFO and
//     needs no permission on the file.
//
// Mount points are crossed, as only root creates them. The exception is FUSE, with
// which users can mount on directories of their own. The owners that such a file
// system reports are made up by that user. But other users, root included, cannot
// see into it unless root set user_allow_other, mount.fuse(8).
//
// The package imports no other package of this project. Errors of system calls are
// returned as they are; callers add what the path was for.
package safepath

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// handle are the flags for a directory in which names are looked up.
	handle = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	// noLinks is how everything beneath a directory is resolved, openat2(2).
	noLinks = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	// maxTries limits how often openat2(2) is called: it returns EAGAIN if a rename
	// interferes with "..", and a user who renames all the time must not block us.
	maxTries = 16
)

// ErrReplaced means that a file was replaced by another between two steps of an
// operation. It wraps EPERM.
var ErrReplaced = fmt.Errorf("replaced by another file meanwhile: %w", unix.EPERM)

// ErrNotRegular means that a file is not a regular file, as required.
var ErrNotRegular = errors.New("not a regular file")

// openat2 opens path in dir, and tries again if a signal or a rename interfered,
// openat2(2).
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

// OpenDir returns a handle of the directory at path. The caller closes it, and
// vouches for the directories above; path itself must not be a link.
func OpenDir(path string) (int, error) {
	return unix.Open(path, handle|unix.O_NOFOLLOW, 0)
}

// OpenBeneath opens rel beneath the directory dir with the flags of open(2) and
// follows no link. The caller closes the descriptor.
//
// The file may be of any type. To read it, use OpenFile; without O_PATH, add
// O_NONBLOCK, or a FIFO blocks the caller.
func OpenBeneath(dir int, rel string, flags int) (int, error) {
	return openat2(dir, rel, uint64(flags), noLinks)
}

// OpenDirBeneath returns a handle of the directory rel beneath dir.
func OpenDirBeneath(dir int, rel string) (int, error) { return OpenBeneath(dir, rel, handle) }

// OpenFile opens the regular file rel beneath dir for reading and follows no link.
// For other types the error is ErrNotRegular: a FIFO does not block, and a device is
// not opened.
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

// OpenInside is like OpenBeneath, but follows links that stay beneath dir. It is for
// directories in which only one user writes.
func OpenInside(dir int, rel string, flags int) (int, error) {
	return openat2(dir, rel, uint64(flags), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenPlain returns a handle of the directory at an absolute path. The error is
// ELOOP if any component is a link.
func OpenPlain(path string) (int, error) {
	return openat2(unix.AT_FDCWD, path, handle, unix.RESOLVE_NO_SYMLINKS)
}

// ErrNoProc means that /proc is not mounted, as in the root directory of a jail for
// commands that systemd runs with full privileges. Without /proc the content of a
// handle cannot be opened; see OpenSame.
var ErrNoProc = errors.New("/proc is not mounted")

// OpenSame opens the regular file rel beneath dir for reading without /proc. It
// follows links that stay beneath dir. The error is ErrReplaced if the file is not
// the one of the handle fd, because it was replaced meanwhile.
func OpenSame(dir int, rel string, fd int) (*os.File, error) {
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return nil, err
	}
	if want.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	// By now it may be a FIFO, which must not block, or a terminal, which must not
	// become our controlling terminal.
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

// ReopenFile opens the regular file of the handle fd for reading. name becomes the
// name of the os.File. The error is ErrNoProc without /proc.
func ReopenFile(fd int, name string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	file, err := unix.Open(ProcPath(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT { // the file itself exists, as it is open
		return nil, ErrNoProc
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(file), name), nil
}

// ProcPath returns a path of the open file fd, proc_pid_fd(5), for system calls that
// take no descriptor.
func ProcPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Close closes a handle. Errors are ignored, as nothing was written.
func Close(fd int) { _ = unix.Close(fd) }

// ID identifies a file of the host, stat(2), as long as it is open or not removed.
type ID struct{ Dev, Ino uint64 }

// IDOf returns the identity of an open file.
func IDOf(fd int) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return idOf(&st), nil
}

// IDAt returns the identity of the file at path. It follows links.
func IDAt(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, err
	}
	return idOf(&st), nil
}

func idOf(st *unix.Stat_t) ID { return ID{uint64(st.Dev), st.Ino} }

// Chown changes the owner and group of an open file, which may be a handle. -1 leaves
// either unchanged, chown(2).
func Chown(fd, uid, gid int) error {
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// Chmod sets the mode of an open file, which may be a handle. It uses /proc because
// fchmod(2) refuses handles.
func Chmod(fd int, mode uint32) error { return unix.Chmod(ProcPath(fd), mode) }

// ReadLink returns the target of the symbolic link fd, readlink(2). It looks up no
// name.
func ReadLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
