// Package notify speaks systemd's notification protocol, sd_notify(3): it
// sends to the service manager, and relays what a guest says over vsock.
package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the service manager's socket, or "" where nobody listens.
func Socket() string { return os.Getenv("NOTIFY_SOCKET") }

// NoMore makes the service manager take no more messages of the unit until it is
// started again: what comes from a hypervisor could keep its stop waiting for
// ever. systemd 254; older ones do not know it.
const NoMore = "NOTIFYACCESS=none"

// Send sends assignments, such as READY=1, to the socket of a service manager.
// It does nothing where socket is empty.
func Send(socket string, assignments ...string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Barrier waits until the service manager has dealt with everything that was
// sent to socket before, or for timeout. Who exits right after a message needs
// it: the manager looks up the sender's unit when it takes the message, and
// for a process that is gone, it may find none (sd_notify_barrier(3)).
func Barrier(socket string, timeout time.Duration) error {
	if socket == "" {
		return nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	ours := os.NewFile(uintptr(pipe[0]), "barrier")
	defer func() { _ = ours.Close() }()
	if err := errors.Join(sendDescriptor(socket, "BARRIER=1", pipe[1]), unix.Close(pipe[1])); err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	if err := ours.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	// Nobody writes; the read ends when the manager closes the other end.
	if _, err := ours.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for systemd to take what it was told: %w", err)
	}
	return nil
}

func sendDescriptor(socket, text string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Sendmsg(s, []byte(text), unix.UnixRights(fd), &unix.SockaddrUnix{Name: socket}, unix.MSG_NOSIGNAL)
	return errors.Join(err, unix.Close(s))
}
