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

// hasCPUs looks for the thread of a guest's CPU, by the beginning of its name, in
// the process that listens on the socket path, to which conn is a connection. It is
// for hypervisors whose socket is there before their VM.
func hasCPUs(conn *net.UnixConn, path, thread string) (bool, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("control socket %s: %w", path, err)
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, peerErr); err != nil {
		return false, fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", peer.Pid))
	if err != nil {
		return false, err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name) //nolint:gosec // of the process that the kernel named
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return false, fmt.Errorf("look for the guest's CPUs: %w", err)
		}
		if strings.HasPrefix(string(comm), thread) {
			return true, nil
		}
	}
	return false, nil
}
