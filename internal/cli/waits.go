package cli

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"microvm/internal/printable"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
	"microvm/internal/wait"
)

// waitsPause is the time before the VMs that are starting are first checked, and between
// two checks. A shorter wait is not worth a line.
const waitsPause = time.Second

// sayWaits prints what the units of VMs that are starting wait for, until the returned
// function is called.
func sayWaits(ctx context.Context, out io.Writer, vms []string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		said := map[string]string{}
		tick := time.NewTicker(waitsPause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				lookForWaits(ctx, out, vms, said)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// lookForWaits prints waits that are not in said, by unit, and adds them. Errors of
// systemd are ignored: the start itself reports them.
func lookForWaits(ctx context.Context, out io.Writer, vms []string, said map[string]string) {
	patterns := make([]string, len(vms))
	for i, name := range vms {
		patterns[i] = unit.EveryOf(name)
	}
	units, err := systemd.ListUnits(ctx, patterns...)
	if err != nil {
		return
	}
	units = slices.DeleteFunc(units, func(u systemd.Unit) bool { return u.Active != "activating" })
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return
	}
	for _, u := range units {
		text := systemd.Property[string](props[u.Name], "StatusText")
		if !strings.HasPrefix(text, wait.StatusPrefix) || said[u.Name] == text {
			continue
		}
		said[u.Name] = text
		_, name, _ := unit.Parse(u.Name)
		// The status of the VM's own unit can contain text from the guest.
		term.Say(out, name, "%s (%s)", printable.Line(text), unit.Short(u.Name))
	}
}
