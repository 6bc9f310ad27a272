package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// socketMode lets the hypervisor's group connect and nobody else.
const socketMode = 0o660

// backlog is the queue of connections that wait for a virtiofsd. One is enough
// for a hypervisor; the rest keeps a second one from being refused outright.
const backlog = 8

// Socket is a bound socket as a record of it remembers it.
type Socket struct {
	// Path is relative to the state directory.
	Path string `json:"path"`
	// Dev and Ino tell it from another that took its name since.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// listen binds and listens on the socket rel beneath the state directory. A
// stale socket of that name is replaced; anything else there is refused. The
// returned descriptor is closed by the caller.
func listen(stateDir int, rel string, gid int) (fd int, id Socket, err error) {
	dir, err := safepath.MkdirBeneath(stateDir, filepath.Dir(rel), safepath.As{Mode: 0o755})
	if err != nil {
		return -1, Socket{}, explainLink(err, "socket", rel)
	}
	defer safepath.Close(dir)
	name := filepath.Base(rel)
	// What an earlier run left.
	if err := safepath.RemoveKind(dir, name, unix.S_IFSOCK); err != nil {
		return -1, Socket{}, fmt.Errorf("replace socket %q: %w", rel, err)
	}
	fd, err = bindAt(dir, name, gid)
	if errors.Is(err, unix.EADDRINUSE) {
		err = errors.New("something that is no socket has its name; remove it")
	}
	if err != nil {
		return -1, Socket{}, fmt.Errorf("bind socket %q: %w", rel, err)
	}
	st, err := settle(dir, name, gid)
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		safepath.Close(fd)
		return -1, Socket{}, fmt.Errorf("listen on socket %q: %w", rel, err)
	}
	return fd, Socket{Path: rel, Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// explainLink says what the kernel's ELOOP and EXDEV mean for a path beneath
// the state directory.
func explainLink(err error, what, rel string) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTDIR) {
		return configErrorf("%s %q goes through a symbolic link or something else that is no directory; inside the state directory none is followed, because the hypervisor could have made it: remove it: %w", what, rel, err)
	}
	return fmt.Errorf("%s %q: %w", what, rel, err)
}

// bindAt binds a stream socket to name in the directory dir. There is no
// bindat: /proc/self/fd stands for the handle, and the name itself is not
// followed, because bind(2) creates it exclusively. The mode comes from the
// socket's own inode and the group from this thread's file system group, so
// the socket is never there with another group or mode, not for an instant.
func bindAt(dir int, name string, gid int) (int, error) {
	// Not non-blocking: virtiofsd waits in accept(2).
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

// withGroup runs do with gid as the group of new files, setfsgid(2). That is
// an attribute of the thread alone.
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

// settle checks what was bound, through a handle that cannot change under it,
// and mends what a set-group-ID directory or the umask made of it.
func settle(dir int, name string, gid int) (unix.Stat_t, error) {
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

// RemoveSockets removes the sockets that an earlier run recorded, where they
// are still the same ones. It is for a supervisor that was killed.
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

// removeSocket removes one socket; one that is gone or was replaced is left.
func removeSocket(root int, s Socket) error {
	if !filepath.IsLocal(s.Path) {
		return configErrorf("it is not inside the state directory; name it without a directory, such as fs.sock")
	}
	return safepath.RemoveIfSame(root, s.Path, unix.S_IFSOCK, safepath.ID{Dev: s.Dev, Ino: s.Ino})
}
