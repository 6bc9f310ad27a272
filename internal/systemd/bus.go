package systemd

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/godbus/dbus/v5"
)

const (
	managerInterface = "org.freedesktop.systemd1.Manager"
	managerPath      = "/org/freedesktop/systemd1"
	privateSocket    = "unix:path=/run/systemd/private"
)

type manager = dbus.BusObject

// call calls the manager through its private socket, which is there before the
// bus is. Only root may.
func call(ctx context.Context, action string, do func(manager) error) error {
	if _, err := os.Stat(running); err != nil {
		return fmt.Errorf("%s: %w", action, errNoManager)
	}
	conn, err := dbus.Dial(privateSocket, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("%s: reach systemd: %w", action, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return fmt.Errorf("%s: reach systemd: %w", action, err)
	}
	if err := do(conn.Object("org.freedesktop.systemd1", managerPath)); err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}
