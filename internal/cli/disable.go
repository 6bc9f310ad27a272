package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

func newDisable(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "disable NAME…",
		Short: "Disable starting VMs at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDisable(cmd.Context(), c, args)
		},
	}
}

func runDisable(ctx context.Context, c *Command, names []string) error {
	return c.eachVM(names, func(v statedir.VM) error {
		if err := systemd.Disable(ctx, []string{unit.VM(v.Name)}); err != nil {
			return exit.WithHint(fmt.Errorf("%s still starts at boot: %w", v.Name, err), "%s, or on NixOS remove it from microvm.autostart", useSudo)
		}
		term.Say(c.Stdout, v.Name, "does not start at boot")
		return nil
	})
}
