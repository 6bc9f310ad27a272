// Package systemd talks to the service manager over D-Bus.
package systemd

import (
	"context"
	"fmt"
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
