package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/vm"
)

const (
	// atOnce is how many builds and evaluations run at a time; each of nix's
	// takes some gigabytes.
	atOnce = 4
	// refresh is how often a watched list shows what no signal tells: uptime,
	// memory, CPU, addresses.
	refresh = 2 * time.Second
	// settle is how long a watched list waits for the signals that follow one.
	settle = 50 * time.Millisecond
)

// listing is what list is asked for.
type listing struct{ json, check, watch bool }

func (c *Command) list() *cobra.Command {
	var o listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the VMs of this host",
		Long: "List the VMs of this host. RUNNER is\n\n" +
			"  current     the VM was started with what is installed\n" +
			"  stale       something else is installed; a restart takes it\n" +
			"  not booted  it is not in use\n" +
			"  outdated    the flake or spec gives something else; an update makes it.\n" +
			"              Only --check finds out, and evaluates every VM's source\n" +
			"  data only   the VM was removed, and its data was kept",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if o.watch {
				if o.check {
					return exit.Usage(errors.New("--watch and --check exclude each other; an evaluation is too slow to be watched"))
				}
				return c.watch(ctx, o)
			}
			return c.listOnce(ctx, o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the list as JSON")
	cmd.Flags().BoolVar(&o.check, "check", false, "evaluate each VM's flake or spec, to see what is outdated")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "keep the list current until ctrl-c")
	return cmd
}

func (c *Command) listOnce(ctx context.Context, o listing) error {
	rows, err := vm.Rows(ctx, c.Host)
	if err != nil {
		return err
	}
	var errs []error
	if o.check {
		errs = c.check(ctx, rows)
	}
	if o.json {
		return errors.Join(c.json(rows), several(errs, len(rows)))
	}
	printRows(c.Stdout, term.PaletteOf(c.Stdout), rows)
	if o.check {
		c.hints(rows)
	}
	return several(errs, len(rows))
}

func printRows(w io.Writer, paint term.Palette, rows []vm.Row) {
	cells := make([][]term.Cell, len(rows))
	for i, r := range rows {
		upFor, memory, cpu, addresses := "-", "-", "-", "-"
		if !r.Since.IsZero() {
			upFor = term.Ago(time.Since(r.Since))
		}
		if r.Memory > 0 {
			memory = term.Bytes(r.Memory)
		}
		if r.CPU > 0 {
			cpu = fmt.Sprintf("%.1fs", r.CPU)
		}
		if vm.Up(r.State) && len(r.Addresses) > 0 {
			addresses = strings.Join(r.Addresses, ",")
		}
		cells[i] = []term.Cell{
			{Text: r.Name}, {Text: r.State, Colour: stateColour(r.State)}, {Text: r.Hypervisor}, {Text: r.Runner, Colour: runnerColour(r.Runner)},
			{Text: upFor}, {Text: memory}, {Text: cpu}, {Text: addresses},
		}
	}
	term.Table(w, paint, []string{"NAME", "STATE", "HYPERVISOR", "RUNNER", "UP", "MEMORY", "CPU", "ADDRESSES"}, cells)
}

func stateColour(state string) string {
	switch state {
	case "active":
		return term.Green
	case "failed":
		return term.Red
	case "inactive":
		return term.Dim
	}
	return term.Yellow
}

func runnerColour(runner string) string {
	switch runner {
	case vm.RunnerCurrent:
		return term.Green
	case vm.RunnerOutdated, vm.RunnerUnknown:
		return term.Red
	case vm.RunnerStale:
		return term.Yellow
	}
	return term.Dim
}

// hints say what to do about what is not current.
func (c *Command) hints(rows []vm.Row) {
	for _, r := range rows {
		switch r.Runner {
		case vm.RunnerOutdated:
			term.Say(c.Stdout, r.Name, "outdated; rebuild and restart it with: microvm update --restart %s", r.Name)
		case vm.RunnerStale:
			term.Say(c.Stdout, r.Name, "stale; restart it with: microvm restart %s", r.Name)
		case vm.RunnerNotBooted:
			term.Say(c.Stdout, r.Name, "not booted; start it with: microvm start %s", r.Name)
		}
	}
}

// check asks the source of each VM what it gives, and marks those that are
// outdated.
func (c *Command) check(ctx context.Context, rows []vm.Row) []error {
	errs := make([]error, len(rows))
	inParallel(len(rows), func(i int) {
		if rows[i].Runner == vm.RunnerDataOnly {
			return
		}
		v, err := c.Host.VM(rows[i].Name)
		if err != nil {
			errs[i] = err
			return
		}
		outdated, err := c.outdated(ctx, v)
		switch {
		case err != nil:
			rows[i].Runner = vm.RunnerUnknown
			errs[i] = fmt.Errorf("%s: %w", v.Name, err)
		case outdated:
			rows[i].Runner = vm.RunnerOutdated
		}
	})
	return errs
}

// inParallel calls do with 0 to n-1, some at a time.
func inParallel(n int, do func(int)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait()
}

// outdated says whether an update of the VM would install something else.
func (c *Command) outdated(ctx context.Context, v statedir.VM) (bool, error) {
	from, err := v.Origin()
	if err != nil {
		return false, err
	}
	current := filepath.Join(v.Dir(), "current")
	switch {
	case from.Toplevel != "":
		plan, ok := vm.PlanAt(current)
		// Without a system it was not built by NixOS.
		return ok && plan.System != "" && plan.System != from.Toplevel, nil
	case from.Flake != "":
		return outdatedFlake(ctx, v, from.Flake)
	case from.Spec != "":
		s, err := c.parseFor(v.Name, from.Spec)
		if err != nil {
			return false, err
		}
		plan, err := c.builder(foreign.InUnit).Compile(s)
		if err != nil {
			return false, err
		}
		installed, ok := vm.PlanAt(current)
		return !ok || !samePlan(plan, installed), nil
	}
	return false, nil
}

// The programs are not of the plan: they have in them where the package is.
func samePlan(a, b *hypervisor.Plan) bool {
	one, other := *a, *b
	one.Programs, other.Programs = nil, nil
	x, errX := json.Marshal(one)
	y, errY := json.Marshal(other)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// outdatedFlake evaluates the VM's runner. That of its system would not do: the
// same system may get more memory.
func outdatedFlake(ctx context.Context, v statedir.VM, flake string) (bool, error) {
	var words bytes.Buffer
	out, err := nix(ctx, &words, "eval", "--raw", installable(flake, v.Name))
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return false, fmt.Errorf("nix could not evaluate flake %s (%w); fix what it says:%s", flake, err, term.Indent(printable.LastLines(words.String(), linesOfFailure)))
	}
	if err != nil {
		return false, err
	}
	current, err := filepath.EvalSymlinks(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return false, fmt.Errorf("follow what is installed: %w", err)
	}
	// The copy of a package that is not in the Nix store.
	if out = strings.TrimSpace(out); out != current {
		place, err := v.Place(out)
		return err != nil || place != current, nil
	}
	return false, nil
}

// watch keeps a list current: at once when systemd tells of a change, and every
// moment for what it does not tell. On a terminal the list stays in its place;
// elsewhere it is printed anew when a VM, its state or its runner changed.
func (c *Command) watch(ctx context.Context, o listing) error {
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
		if last, err = c.showWatched(rows, o, last); err != nil {
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

func (c *Command) showWatched(rows []vm.Row, o listing, last string) (string, error) {
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
