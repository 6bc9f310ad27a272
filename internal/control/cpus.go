package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hasCPUs reports whether the process that listens on the socket path, to which conn is
// connected, has a thread whose name begins with thread: a guest's CPU. It is for
// hypervisors whose socket exists before the VM does.
func hasCPUs(conn *net.UnixConn, path, thread string) (bool, error) {
	listener, err := Listener(conn)
	if err != nil {
		return false, fmt.Errorf("find the process that listens on %s: %w", path, err)
	}
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", listener.Pid))
	if err != nil {
		return false, err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return false, fmt.Errorf("find the guest's CPUs: %w", err)
		}
		if strings.HasPrefix(string(comm), thread) {
			return true, nil
		}
	}
	return false, nil
}

// Listener returns the credentials of the process that listens on the socket to which conn
// is connected, as of the time when it began to listen: SO_PEERCRED, unix(7). The process
// may have exited since, and its number may be another's.
func Listener(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return cred, nil
}
