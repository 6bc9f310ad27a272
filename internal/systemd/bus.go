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
)

const (
	managerInterface = "org.freedesktop.systemd1.Manager"
	managerName      = "org.freedesktop.systemd1"
	managerPath      = "/org/freedesktop/systemd1"
	privateSocket    = "/run/systemd/private"
)

// private connects to the manager through its private socket, which is there
// before the bus is and wants no greeting. Only root may.
func private(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path="+privateSocket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("reach systemd: %w", err)
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return nil, errors.Join(fmt.Errorf("reach systemd: %w", err), conn.Close())
	}
	// What comes on the heels of the authentication's last line is read with it,
	// 256 bytes at most, and is left lying until more comes: a short call would
	// wait for its reply forever. A question that is longer than that, and whose
	// answer nobody wants, makes the manager come back for the rest.
	const more = 512
	ask := conn.Object(managerName, managerPath).
		CallWithContext(ctx, managerInterface+".GetUnit", dbus.FlagNoReplyExpected, strings.Repeat("-", more))
	if ask.Err != nil {
		return nil, errors.Join(fmt.Errorf("reach systemd: %w", ask.Err), conn.Close())
	}
	return conn, nil
}

// connect connects to the manager for what go-systemd does: root through the
// private socket, others over the bus.
func connect(ctx context.Context) (*systemd.Conn, error) {
	if os.Geteuid() != 0 {
		return systemd.NewSystemConnectionContext(ctx)
	}
	return systemd.NewConnection(func() (*dbus.Conn, error) { return private(ctx) })
}
