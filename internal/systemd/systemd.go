// Package systemd talks to the service manager over D-Bus.
package systemd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// running is there where systemd is the service manager, sd_booted(3).
const running = "/run/systemd/system"

// Reload makes systemd read its units again. It does nothing where systemd is
// not the service manager, such as in the building of an image.
func Reload(ctx context.Context) error {
	if !Running() {
		return nil
	}
	c, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	if err := c.ReloadContext(ctx); err != nil {
		return fmt.Errorf("make systemd read its units again: %w; run: systemctl daemon-reload", err)
	}
	return nil
}

// versionTimeout bounds the question for the version, without which one can do.
const versionTimeout = 5 * time.Second

// Version is the number of the service manager's version, 257; 0 where there is
// none to ask.
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

// majorVersion is 257 for "257.9-1~deb13u1", and for "v257".
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
