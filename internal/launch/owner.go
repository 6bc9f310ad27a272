package launch

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// SocketOwner is the process that listens on a Unix socket: the hypervisor of
// a control socket. SO_PEERCRED, unix(7).
func SocketOwner(path string) (int, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w; is the VM running?", path, err)
	}
	defer func() { _ = conn.Close() }()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("the control socket is no Unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	return int(cred.Pid), nil
}
