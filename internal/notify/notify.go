// Package notify speaks systemd's notification protocol, sd_notify(3): it
// sends to the service manager, and relays what a guest says over vsock.
package notify

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// Socket is the service manager's socket, or "" where nobody listens.
func Socket() string { return os.Getenv("NOTIFY_SOCKET") }

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
