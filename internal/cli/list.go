package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/term"
	"microvm/internal/vm"
)

// listOptions are the flags of list.
type listOptions struct{ json, check, watch bool }

func newList(c *Command) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the VMs of this host",
		Long: "List the VMs of this host. RUNNER is\n\n" +
			"  current     the VM was started with the installed package\n" +
			"  stale       another package is installed; a restart switches to it\n" +
			"  not booted  the installed package is not in use\n" +
			"  outdated    the flake or spec gives another package; an update installs it\n" +
			"              (only with --check, which evaluates the source of every VM)\n" +
			"  unknown     the flake or spec could not be evaluated (only with --check)\n" +
			"  data only   the VM was removed, but its data was kept",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if o.watch {
				if o.check {
					return exit.Usage(errors.New("--watch and --check are mutually exclusive"))
				}
				return (&watcher{c: c, json: o.json}).run(ctx)
			}
			return runList(ctx, c, o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the list as JSON")
	cmd.Flags().BoolVar(&o.check, "check", false, "evaluate the flake or spec of each VM to find outdated ones")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "keep updating the list until ctrl-c")
	return cmd
}

func runList(ctx context.Context, c *Command, o listOptions) error {
	rows, err := vm.Rows(ctx, c.Host)
	if err != nil {
		return err
	}
	var errs []error
	if o.check {
		errs = check(ctx, c, rows)
	}
	if o.json {
		return errors.Join(c.json(rows), several(errs, len(rows)))
	}
	printRows(c.Stdout, term.PaletteOf(c.Stdout), rows)
	if o.check {
		printHints(c.Stdout, rows)
	}
	return several(errs, len(rows))
}

// printHints prints what to do about each VM that is not current.
func printHints(out io.Writer, rows []vm.Row) {
	for _, r := range rows {
		switch r.Runner {
		case vm.RunnerOutdated:
			term.Say(out, r.Name, "hint: rebuild and restart it with: microvm update --restart %s", r.Name)
		case vm.RunnerStale:
			term.Say(out, r.Name, "hint: restart it with: microvm restart %s", r.Name)
		case vm.RunnerNotBooted:
			term.Say(out, r.Name, "hint: start it with: microvm start %s", r.Name)
		}
	}
}

// check evaluates the source of each VM, and marks those that are outdated. It returns
// an error or nil for each row.
func check(ctx context.Context, c *Command, rows []vm.Row) []error {
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
		other, err := outdated(ctx, c, v)
		switch {
		case err != nil:
			rows[i].Runner = vm.RunnerUnknown
			errs[i] = fmt.Errorf("%s: %w", v.Name, err)
		case other:
			rows[i].Runner = vm.RunnerOutdated
		}
	})
	return errs
}
