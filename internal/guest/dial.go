package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// connectTimeout is how long a guest may take to answer. The kernel's default for
// vsock, 2 s, is too short for a guest that boots on a busy host.
const connectTimeout = 10 * time.Second

// maxReply is longer than any multiplexer's answer, in bytes.
const maxReply = 64

// Address is the address of a guest.
type Address struct {
	// CID is the guest's address in AF_VSOCK.
	CID uint32
	// Socket is the path of the hypervisor's multiplexer, relative to Dir; "" means
	// AF_VSOCK.
	Socket string
	// Dir is the VM's state directory.
	Dir string
}

// Dial connects to a port of the guest, within some seconds or until ctx ends. The
// caller closes the connection.
func Dial(ctx context.Context, a Address, port uint32) (*os.File, error) {
	if a.Socket != "" {
		return dialMux(ctx, a, port)
	}
	return dialVsock(within(ctx), a.CID, port)
}

// within returns how long a guest may take: until ctx ends, and connectTimeout at most.
func within(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return connectTimeout
	}
	// Never 0, which means the default, or no limit, to the kernel.
	return min(connectTimeout, max(time.Until(deadline), time.Millisecond))
}

// dialVsock connects through AF_VSOCK. It does not use mdlayher/vsock, whose Dial has
// no timeout.
func dialVsock(limit time.Duration, cid, port uint32) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, exit.WithHint(fmt.Errorf("connect to port %d of the guest with CID %d: %w", port, cid, err), "%s", vsockHint(err))
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	// The level of this option is the family, see vm_sockets.h.
	err = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout)
	if err == nil {
		err = retry(func() error { return unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}) })
	}
	if err != nil {
		_ = unix.Close(fd)
		return fail(err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("vsock %d:%d", cid, port)), nil
}

// vsockHint returns the hint for an error of a vsock connection.
func vsockHint(err error) string {
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return "load the module with: modprobe vhost_vsock"
	case errors.Is(err, unix.ENODEV):
		return "start the VM, as none has that CID, or load the module with: modprobe vhost_vsock"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
		return "nothing listens there in the guest: install sshd, which systemd 256 and newer start on vsock"
	case errors.Is(err, unix.ETIMEDOUT):
		return "wait for the guest, which may still be booting, or load its vsock driver"
	}
	return "check that the VM is running"
}

// dialMux connects through a multiplexer. Its protocol is in Firecracker's
// docs/vsock.md, and Cloud Hypervisor has the same: "CONNECT port" on a line, answered
// by "OK" and the port on the host's side.
func dialMux(ctx context.Context, a Address, port uint32) (*os.File, error) {
	limit := within(ctx)
	file, err := safepath.ConnectBeneath(ctx, a.Dir, a.Socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(int(file.Fd()), unix.SHUT_RDWR) })
	defer stop()
	if err := handshake(file, limit, port); err != nil {
		_ = file.Close()
		if ctx.Err() != nil {
			err = errNoAnswer
		}
		return nil, fmt.Errorf("connect to port %d of the guest through %s: %w", port, a.Socket, err)
	}
	return file, nil
}

var errNoAnswer = exit.WithHint(errors.New("the hypervisor does not answer"), "it may still be starting: try again")

// handshake asks the multiplexer for a connection to a port, and waits for its answer.
func handshake(file *os.File, limit time.Duration, port uint32) error {
	fd := int(file.Fd())
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(file, "CONNECT %d\n", port); err != nil {
		return err
	}
	// It reads single bytes, as what follows the line comes from the guest.
	var reply strings.Builder
	one := make([]byte, 1)
	for one[0] != '\n' {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Read(fd, one)
			return err
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			return errNoAnswer
		case err != nil:
			return err
		case n == 0:
			return exit.WithHint(errors.New("the hypervisor closed the connection: nothing listens there in the guest"),
				"install sshd in the guest, or use another port")
		case reply.Len() > maxReply:
			return fmt.Errorf("unexpected answer of the hypervisor's multiplexer: %q", reply.String())
		}
		reply.WriteByte(one[0])
	}
	if words := strings.Fields(reply.String()); len(words) == 0 || words[0] != "OK" {
		return fmt.Errorf("unexpected answer of the hypervisor's multiplexer: %q", strings.TrimSpace(reply.String()))
	}
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{})
}

// retry calls call until it returns something other than EINTR.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
