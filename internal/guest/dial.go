// Package guest reaches what listens in a guest: through the kernel's vsock, or
// through the Unix socket on which some hypervisors multiplex it.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// connectTimeout is how long a guest may take to answer. The kernel's own
// default for vsock is 2 s, which a guest that boots on a busy host exceeds.
const connectTimeout = 10 * time.Second

// maxReply is more than any multiplexer answers.
const maxReply = 64

// Address is where a guest is.
type Address struct {
	// CID is the guest's in AF_VSOCK.
	CID uint32
	// Socket is the hypervisor's multiplexer, relative to Dir; empty means
	// AF_VSOCK.
	Socket string
	// Dir is the VM's state directory.
	Dir string
}

// Dial connects to a port of the guest. Whoever calls it closes the connection.
func Dial(ctx context.Context, a Address, port uint32) (*os.File, error) {
	if a.Socket != "" {
		return dialMux(ctx, a, port)
	}
	return dialVsock(within(ctx), a.CID, port)
}

// within is how long a guest may take: until ctx ends, and connectTimeout at most.
func within(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return connectTimeout
	}
	// Not 0, by which the kernel would mean its default, or none.
	return min(connectTimeout, max(time.Until(deadline), time.Millisecond))
}

func dialVsock(limit time.Duration, cid, port uint32) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("connect to port %d of the guest with CID %d: %w; %s", port, cid, err, vsockRemedy(err))
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	// vm_sockets.h has it at the level of the family.
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

func vsockRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENODEV):
		if errors.Is(err, unix.ENODEV) {
			return "no VM has that CID now, or vhost_vsock is not loaded; start the VM, or run: modprobe vhost_vsock"
		}
		return "this kernel has no vsock; run: modprobe vhost_vsock"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
		return "nothing listens there in the guest; systemd 256 and newer start sshd on it by themselves where sshd is installed"
	case errors.Is(err, unix.ETIMEDOUT):
		return "the guest does not answer; it may still be booting, or have no vsock driver"
	}
	return "is the VM running?"
}

// dialMux speaks the protocol of firecracker's vsock documentation, which
// cloud-hypervisor has as well: "CONNECT port" on a line, answered by "OK" and
// the port on the host's side.
func dialMux(ctx context.Context, a Address, port uint32) (*os.File, error) {
	limit := within(ctx)
	file, err := safepath.ConnectBeneath(ctx, a.Dir, a.Socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("reach the guest: %w", err)
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

var errNoAnswer = errors.New("the hypervisor does not answer; it may still be starting")

func handshake(file *os.File, limit time.Duration, port uint32) error {
	fd := int(file.Fd())
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(file, "CONNECT %d\n", port); err != nil {
		return err
	}
	// A byte at a time: what comes after the line is the guest's.
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
			return errors.New("the hypervisor closed the connection: nothing listens there in the guest; install sshd in it, or name another port")
		case reply.Len() > maxReply:
			return fmt.Errorf("the hypervisor answers %q, which is not the multiplexer's protocol", reply.String())
		}
		reply.WriteByte(one[0])
	}
	if words := strings.Fields(reply.String()); len(words) == 0 || words[0] != "OK" {
		return fmt.Errorf("the hypervisor answers %q in place of OK", strings.TrimSpace(reply.String()))
	}
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{})
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
