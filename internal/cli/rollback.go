package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/vm"
)

func newRollback(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME",
		Short: "Install what was installed before, for the next start of a VM",
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
	if err := needsRoot("roll a VM back"); err != nil {
		return err
	}
	err = v.Rollback(ctx, systemd.Reload)
	if errors.Is(err, statedir.ErrNoOld) {
		return fmt.Errorf("%s has nothing to go back to, as it was never updated; see what it has with: microvm status %s", v.Name, v.Name)
	}
	if err != nil {
		return err
	}
	r := vm.Describe(v)
	term.Say(c.Stdout, v.Name, "rolled back to %s", r.Current)
	if r.Runner == vm.RunnerStale {
		term.Say(c.Stdout, v.Name, "goes on with what it was started with; take the former one with: microvm restart %s", v.Name)
	}
	return nil
}
