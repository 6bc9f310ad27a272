package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/vm"
)

const (
	// refresh is how often a watched list shows what no signal tells: uptime,
	// memory, CPU, addresses.
	refresh = 2 * time.Second
	// settle is how long a watched list waits for the signals that follow one.
	settle = 50 * time.Millisecond
)

// runWatch keeps a list current: at once when systemd tells of a change, and every
// moment for what it does not tell. On a terminal the list stays in its place;
// elsewhere it is printed anew when a VM, its state or its runner changed.
func runWatch(ctx context.Context, c *Command, o listOptions) error {
	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- systemd.Watch(ctx, changed) }()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	last := ""
	for {
		rows, err := vm.Rows(ctx, c.Host)
		if ctx.Err() != nil {
			return nil // ctrl-c is how one leaves
		}
		if err != nil {
			return err
		}
		if last, err = showWatched(c, rows, o, last); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-tick.C:
		case <-changed:
			time.Sleep(settle)
		}
	}
}

// showWatched prints the list where it differs from the last one, whose key last is,
// and returns its own.
func showWatched(c *Command, rows []vm.Row, o listOptions, last string) (string, error) {
	key := ""
	for _, r := range rows {
		key += strings.Join([]string{r.Name, r.State, r.Hypervisor, r.Runner}, "\x00") + "\n"
	}
	if o.json || !term.IsTerminal(c.Stdout) {
		if key == last {
			return key, nil
		}
		if o.json {
			return key, json.NewEncoder(c.Stdout).Encode(rows)
		}
		if last != "" {
			c.printf("\n")
		}
		printRows(c.Stdout, term.PaletteOf(c.Stdout), rows)
		return key, nil
	}
	var list bytes.Buffer
	printRows(&list, term.PaletteOf(c.Stdout), rows)
	lines := strings.SplitAfter(list.String(), "\n")
	_, height := term.Size(c.Stdout)
	lines = lines[:min(len(lines), height-1)]
	// Home, each line over the former one, and away with what is below. A line that
	// is too long for the terminal is cut by it (DECAWM), for one that took two would
	// push the first ones out.
	out := "\x1b[?7l\x1b[H" + strings.ReplaceAll(strings.Join(lines, ""), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
	if last == "" {
		out = "\x1b[2J" + out
	}
	c.printf("%s", out)
	return key, nil
}
