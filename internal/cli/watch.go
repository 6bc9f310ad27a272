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
	// refresh is how often a watched list updates what no signal announces: uptime,
	// memory, CPU and addresses.
	refresh = 2 * time.Second
	// settle is how long a watched list waits for further signals after one.
	settle = 50 * time.Millisecond
)

// watcher keeps printing the list of VMs.
type watcher struct {
	c    *Command
	json bool
	// last identifies the list that was printed last, without the columns that always
	// change; empty before the first.
	last string
}

// run prints the list until ctx ends: when systemd signals a change, and every two seconds.
// On a terminal the list is redrawn in place. Elsewhere it is printed again if a VM, its
// state or its runner has changed.
func (w *watcher) run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- systemd.Watch(ctx, changed) }()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		rows, err := vm.Rows(ctx, w.c.Host)
		if ctx.Err() != nil {
			return nil // ctrl-c is how to quit
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

// show prints the list: on a terminal always, elsewhere if it differs from the last one.
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
	// Cursor to the top left, then each line over the old one, then clear the rest of the
	// screen. Lines do not wrap (DECAWM), because that would scroll the first ones out.
	out := "\x1b[?7l\x1b[H" + strings.ReplaceAll(strings.Join(lines, ""), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
	if last == "" {
		out = "\x1b[2J" + out
	}
	w.c.printf("%s", out)
	return nil
}
