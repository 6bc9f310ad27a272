package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// socketMode lets only root and the hypervisor's group connect.
const socketMode = 0o660

// backlog is the number of connections that can wait for a virtiofsd. One is enough
// for a hypervisor; with more, a second hypervisor waits instead of being refused.
const backlog = 8

// Socket identifies a bound socket in a record.
type Socket struct {
	// Path is relative to the state directory.
	Path string `json:"path"`
	// Dev and Ino distinguish it from a later file of the same name.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// listen binds the socket rel beneath the open state directory and listens on it. A
// stale socket of that name is replaced; any other file is an error. The caller
// closes fd.
func listen(stateDir int, rel string, gid int) (fd int, id Socket, err error) {
	dir, err := safepath.MkdirBeneath(stateDir, filepath.Dir(rel), safepath.As{Mode: 0o755})
	if err != nil {
		return -1, Socket{}, explainLink(err, "socket", rel)
	}
	defer safepath.Close(dir)
	name := filepath.Base(rel)
	// An earlier run that was killed leaves its socket.
	if err := safepath.RemoveKind(dir, name, unix.S_IFSOCK); err != nil {
		return -1, Socket{}, fmt.Errorf("replace socket %q: %w", rel, err)
	}
	fd, err = bindAt(dir, name, gid)
	if errors.Is(err, unix.EADDRINUSE) {
		err = exit.WithHint(errors.New("file exists and is not a socket"), "remove %s from the VM's state directory", rel)
	}
	if err != nil {
		return -1, Socket{}, fmt.Errorf("bind socket %q: %w", rel, err)
	}
	st, err := verifySocket(dir, name, gid)
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		safepath.Close(fd)
		return -1, Socket{}, fmt.Errorf("listen on socket %q: %w", rel, err)
	}
	return fd, Socket{Path: rel, Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// explainLink returns an error about the path rel beneath the state directory. It
// explains ELOOP, EXDEV and ENOTDIR, which mean that the path has a link or a file
// in place of a directory.
func explainLink(err error, what, rel string) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTDIR) {
		return exit.WithHint(configErrorf("%s %q goes through a symbolic link or a file: %w", what, rel, err), removeLinkHint)
	}
	return fmt.Errorf("%s %q: %w", what, rel, err)
}

// bindAt binds a stream socket to name in the open directory dir. Linux has no
// bindat(2), so the path goes through /proc/self/fd. The name itself is not followed,
// because bind(2) creates it exclusively. The mode comes from the socket's own inode
// and the group from the thread's file system group, so the socket never exists with
// another mode or group.
func bindAt(dir int, name string, gid int) (int, error) {
	// The socket is blocking: virtiofsd waits in accept(2).
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, socketMode); err != nil {
		safepath.Close(fd)
		return -1, err
	}
	err = withGroup(gid, func() error {
		return unix.Bind(fd, &unix.SockaddrUnix{Name: safepath.ProcPath(dir) + "/" + name})
	})
	if err != nil {
		safepath.Close(fd)
		return -1, err
	}
	return fd, nil
}

// withGroup runs do with gid as the group of new files, setfsgid(2), which is an
// attribute of the thread.
func withGroup(gid int, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := unix.SetfsgidRetGid(gid)
	if err != nil {
		return err
	}
	err = do()
	_, back := unix.SetfsgidRetGid(old)
	return errors.Join(err, back)
}

// verifySocket checks the bound socket through a handle, so that it cannot be replaced
// in between, and corrects its group and mode: a set-group-ID directory changes the
// one, a umask the other.
func verifySocket(dir int, name string, gid int) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := safepath.OpenBeneath(dir, name, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer safepath.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != unix.Geteuid() {
		return st, safepath.ErrReplaced
	}
	if int(st.Gid) != gid {
		if err := safepath.Chown(fd, -1, gid); err != nil {
			return st, err
		}
	}
	if st.Mode&0o777 != socketMode {
		return st, safepath.Chmod(fd, socketMode)
	}
	return st, nil
}

// RemoveSockets removes the sockets that an earlier run recorded, unless they have
// been replaced since. It cleans up after a supervisor that was killed.
func RemoveSockets(stateDir string, sockets []Socket) error {
	root, err := safepath.OpenDir(stateDir)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open state directory %q: %w", stateDir, err)
	}
	defer safepath.Close(root)
	var faults []error
	for _, s := range sockets {
		if err := removeSocket(root, s); err != nil {
			faults = append(faults, fmt.Errorf("remove socket %q: %w", s.Path, err))
		}
	}
	return errors.Join(faults...)
}

// removeSocket removes one socket. It is not an error if the socket no longer exists
// or was replaced, and the replacement is kept.
func removeSocket(root int, s Socket) error {
	if !filepath.IsLocal(s.Path) {
		return configErrorf("path is not inside the state directory")
	}
	return safepath.RemoveIfSame(root, s.Path, unix.S_IFSOCK, safepath.ID{Dev: s.Dev, Ino: s.Ino})
}
