package systemd

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// State is what systemd says of one unit.
type State struct {
	// Active is systemd's ActiveState: active, inactive, failed, activating, …
	Active string
	// Since is when the unit became active; zero where it is not.
	Since time.Time
}

// States asks systemd for units, in one round trip for those that are down and
// one more for each that is up. Without systemd every state is "unknown".
func States(ctx context.Context, units []string) (map[string]State, error) {
	out := make(map[string]State, len(units))
	if _, err := os.Stat(running); err != nil || len(units) == 0 {
		for _, u := range units {
			out[u] = State{Active: "unknown"}
		}
		return out, nil
	}
	c, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	list, err := c.ListUnitsByNamesContext(ctx, units)
	if err != nil {
		return nil, fmt.Errorf("ask systemd for the VMs' states: %w", err)
	}
	for _, u := range list {
		s := State{Active: u.ActiveState}
		if u.ActiveState == "active" {
			p, err := c.GetUnitPropertyContext(ctx, u.Name, "ActiveEnterTimestamp")
			if err != nil {
				return nil, fmt.Errorf("ask systemd for %s: %w", u.Name, err)
			}
			usec, _ := p.Value.Value().(uint64)
			s.Since = time.UnixMicro(int64(usec)) //nolint:gosec // a time of day
		}
		out[u.Name] = s
	}
	return out, nil
}
