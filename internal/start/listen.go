package start

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
)

// muxPort is the port on which the host listens behind a hypervisor's vsock
// multiplexer. Each VM has its own socket, so all can use the same port.
const muxPort = 28022

// guestListener is the socket on which the guest will report.
type guestListener struct {
	file *os.File
	num  uint32
	// path is that of a Unix socket, relative to the state directory; "" for vsock.
	path string
}

func (g *guestListener) port() uint32 {
	if g == nil {
		return 0
	}
	return g.num
}

// listen opens the guest's listener before the hypervisor starts, so no report is
// lost. It returns nil if the guest does not report.
func (s *start) listen() (*guestListener, error) {
	if s.plan.Readiness.Mode != hypervisor.ReadyGuest || s.Notify == "" {
		return nil, nil
	}
	if s.plan.Readiness.VsockSocket != "" {
		return listenUnix(s.plan.Readiness.VsockSocket, muxPort)
	}
	return listenVsock()
}

// listenVsock listens on vhost-vsock, on a port that the kernel chooses. It accepts
// streams only, which the guest is told to use; socket types share one port space.
// It does not use mdlayher/vsock, whose listener has no file that a child could
// inherit.
func listenVsock() (*guestListener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, exit.WithHint(fmt.Errorf("create a vsock socket: %w", err), "load the module with: modprobe vhost_vsock")
	}
	file := os.NewFile(uintptr(fd), "vsock")
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY})
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on vsock: %w", errors.Join(err, file.Close()))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock: %w", errors.Join(err, file.Close()))
	}
	addr, ok := name.(*unix.SockaddrVM)
	if !ok {
		return nil, errors.Join(errors.New("listen on vsock: unexpected address family"), file.Close())
	}
	return &guestListener{file: file, num: addr.Port}, nil
}

// muxPath returns the path of the Unix socket that a hypervisor with a vsock
// multiplexer connects to when its guest connects to a port of the host, see
// Firecracker's docs/vsock.md; Cloud Hypervisor does the same.
func muxPath(socket string, port uint32) string {
	return fmt.Sprintf("%s_%d", socket, port)
}

func listenUnix(socket string, port uint32) (*guestListener, error) {
	path := muxPath(socket, port)
	if err := safepath.RemoveStale(".", unix.S_IFSOCK, path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen for the guest on %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the guest on %s: %w", path, errors.Join(err, file.Close()))
	}
	return &guestListener{file: file, num: port, path: path}, nil
}
