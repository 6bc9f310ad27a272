// Package notify implements systemd's notification protocol, sd_notify(3): it sends
// messages to the service manager, and relays those of a guest.
package notify

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Socket returns the path of the service manager's socket, or "" if there is none.
func Socket() string { return os.Getenv("NOTIFY_SOCKET") }

// NoMore makes the service manager ignore further messages of the unit until its next
// start: messages of a hypervisor could delay its stop without limit. It needs systemd
// 254; older ones ignore it.
const NoMore = "NOTIFYACCESS=none"

// Send sends assignments, such as READY=1, to the socket of a service manager. It
// does nothing if socket is empty.
func Send(socket string, assignments ...string) error {
	if socket == "" {
		return nil
	}
	if err := send(socket, strings.Join(assignments, "\n"), nil); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Barrier waits until the service manager has processed everything that was sent to
// socket before, and returns an error after timeout. It is for a process that exits
// right after a message: the manager looks up the sender's unit when it receives the
// message, and may not find it for a process that has exited, sd_notify_barrier(3).
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
	if err := errors.Join(send(socket, "BARRIER=1", unix.UnixRights(pipe[1])), unix.Close(pipe[1])); err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	if err := ours.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	// The read ends without data when the manager closes the other end.
	if _, err := ours.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for systemd to read its messages: %w", err)
	}
	return nil
}

// send sends one message, with control data that may be nil. It uses system calls, not
// package net, to keep a resident program such as microvm-virtiofsd small. A leading
// "@" of socket means an abstract address, as in sd_notify(3).
func send(socket, text string, rights []byte) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Sendmsg(s, []byte(text), rights, &unix.SockaddrUnix{Name: socket}, unix.MSG_NOSIGNAL)
	return errors.Join(err, unix.Close(s))
}
