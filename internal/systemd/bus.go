package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"microvm/internal/exit"
)

const (
	managerInterface    = "org.freedesktop.systemd1.Manager"
	managerName         = "org.freedesktop.systemd1"
	managerPath         = "/org/freedesktop/systemd1"
	unitInterface       = "org.freedesktop.systemd1.Unit"
	serviceInterface    = "org.freedesktop.systemd1.Service"
	propertiesInterface = "org.freedesktop.DBus.Properties"
)

// running is the directory that exists if systemd is the service manager,
// sd_booted(3), and privateSocket the manager's own socket. Tests replace them.
var (
	running       = "/run/systemd/system"
	privateSocket = "/run/systemd/private"
)

var errNoManager = exit.WithHint(errors.New("systemd is not running"), "start the VM manually with: microvm run")

// Running reports whether systemd is the service manager, sd_booted(3). The programs
// of a jailed VM's unit see only its socket.
func Running() bool {
	for _, path := range []string{running, privateSocket} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// dial connects to the manager: root through its private socket, which is faster and
// works without a bus, other users over the system bus. The caller closes the
// connection.
func dial(ctx context.Context) (*dbus.Conn, error) {
	if !Running() {
		return nil, errNoManager
	}
	connect := private
	if os.Geteuid() != 0 {
		connect = bus
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return conn, nil
}

// connect is dial for the calls that go-systemd has. It makes two connections, one of
// them for signals. The caller closes them.
func connect(ctx context.Context) (*systemd.Conn, error) {
	return systemd.NewConnection(func() (*dbus.Conn, error) { return dial(ctx) })
}

// bus connects to the system bus.
func bus(ctx context.Context) (*dbus.Conn, error) {
	return dbus.ConnectSystemBus(dbus.WithContext(ctx))
}

// private connects to the manager through its private socket, on which there is no
// Hello call.
func private(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path="+privateSocket, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// The manager reads up to 256 bytes at a time while it authenticates a client,
	// bus_socket_read_auth in systemd's src/libsystemd/sd-bus/bus-socket.c. If our
	// first message follows BEGIN so closely that it is read along with it, the
	// message stays in the manager's buffer until the socket is readable again, and
	// a first call of less than 256 bytes may never be answered. We know of no
	// upstream issue. A first message that is longer, to which no reply is expected,
	// always leaves bytes in the socket.
	const length = 512
	first := conn.Object(managerName, managerPath).
		CallWithContext(ctx, managerInterface+".GetUnit", dbus.FlagNoReplyExpected, strings.Repeat("-", length))
	if first.Err != nil {
		return nil, errors.Join(first.Err, conn.Close())
	}
	return conn, nil
}
