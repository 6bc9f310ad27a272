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

// watcher keeps a list current.
type watcher struct {
	c    *Command
	json bool
	// last is what the list was when it was printed last, but for what changes with
	// time; empty before the first.
	last string
}

// run keeps the list current until ctx ends: at once when systemd tells of a change,
// and every moment for what it does not tell. On a terminal the list stays in its
// place; elsewhere it is printed anew when a VM, its state or its runner changed.
func (w *watcher) run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- systemd.Watch(ctx, changed) }()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		rows, err := vm.Rows(ctx, w.c.Host)
		if ctx.Err() != nil {
			return nil // ctrl-c is how one leaves
		}
		if err != nil {
			return err
		}
		if err := w.show(rows); err != nil {
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

// show prints the list: on a terminal always, elsewhere where it differs from the
// last one.
func (w *watcher) show(rows []vm.Row) error {
	key, last := "", w.last
	for _, r := range rows {
		key += strings.Join([]string{r.Name, r.State, r.Hypervisor, r.Runner}, "\x00") + "\n"
	}
	w.last = key
	if w.json || !term.IsTerminal(w.c.Stdout) {
		if key == last {
			return nil
		}
		if w.json {
			return json.NewEncoder(w.c.Stdout).Encode(rows)
		}
		if last != "" {
			w.c.printf("\n")
		}
		printRows(w.c.Stdout, term.PaletteOf(w.c.Stdout), rows)
		return nil
	}
	var list bytes.Buffer
	printRows(&list, term.PaletteOf(w.c.Stdout), rows)
	lines := strings.SplitAfter(list.String(), "\n")
	_, height := term.Size(w.c.Stdout)
	lines = lines[:min(len(lines), height-1)]
	// Home, each line over the former one, and away with what is below. A line that
	// is too long for the terminal is cut by it (DECAWM), for one that took two would
	// push the first ones out.
	out := "\x1b[?7l\x1b[H" + strings.ReplaceAll(strings.Join(lines, ""), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
	if last == "" {
		out = "\x1b[2J" + out
	}
	w.c.printf("%s", out)
	return nil
}
