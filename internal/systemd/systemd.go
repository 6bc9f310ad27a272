// Package systemd talks to the service manager over D-Bus.
package systemd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"microvm/internal/exit"
)

// Reload makes systemd read its units again. It does nothing if systemd is not
// running, as when an image is built.
func Reload(ctx context.Context) error {
	if !Running() {
		return nil
	}
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return reload(ctx, c)
}

func reload(ctx context.Context, c *systemd.Conn) error {
	if err := c.ReloadContext(ctx); err != nil {
		return exit.WithHint(fmt.Errorf("reload systemd: %w", err), "run: systemctl daemon-reload")
	}
	return nil
}

// versionTimeout limits the call for the version, which is optional.
const versionTimeout = 5 * time.Second

// Version returns the major version of systemd, such as 257, or 0 if it is not known.
func Version() int {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	var value dbus.Variant
	err = conn.Object(managerName, managerPath).
		CallWithContext(ctx, propertiesInterface+".Get", 0, managerInterface, "Version").Store(&value)
	if err != nil {
		return 0
	}
	text, _ := value.Value().(string)
	return majorVersion(text)
}

// majorVersion returns 257 for "257.9-1~deb13u1" and for "v257".
func majorVersion(text string) int {
	text = strings.TrimPrefix(text, "v")
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}
