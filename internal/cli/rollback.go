package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/vm"
)

func newRollback(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME",
		Short: "Install the previous package of a VM, for its next start",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRollback(cmd.Context(), c, args[0])
		},
	}
}

func runRollback(ctx context.Context, c *Command, name string) error {
	v, err := c.vm(name)
	if err != nil {
		return err
	}
	if err := needsRoot("rolling back a VM"); err != nil {
		return err
	}
	err = v.Rollback(ctx, systemd.Reload)
	if errors.Is(err, statedir.ErrNoOld) {
		return fmt.Errorf("%s has no previous package to roll back to", v.Name)
	}
	if err != nil {
		return err
	}
	r := vm.Describe(v)
	term.Say(c.Stdout, v.Name, "rolled back to %s", r.Current)
	if r.Runner == vm.RunnerStale {
		sayKeepsRunning(c.Stdout, v.Name)
	}
	return nil
}

// sayKeepsRunning prints that a VM has to be restarted to run the installed package.
func sayKeepsRunning(out io.Writer, name string) {
	term.Say(out, name, "keeps running the package that it was started with")
	term.Say(out, name, "hint: switch to the installed one with: microvm restart %s", name)
}
