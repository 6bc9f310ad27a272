package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

func newEnable(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME…",
		Short: "Enable starting VMs at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runEnable(cmd.Context(), c, args)
		},
	}
}

func runEnable(ctx context.Context, c *Command, names []string) error {
	return c.eachVM(names, func(v statedir.VM) error {
		if !v.Installed() {
			return notInstalled(v)
		}
		return enableVM(ctx, c.Stdout, v.Name)
	})
}

// enableVM enables a VM and the target of all VMs, without which enabling a VM has
// no effect.
func enableVM(ctx context.Context, out io.Writer, name string) error {
	if err := systemd.Enable(ctx, []string{unit.Target, unit.VM(name)}); err != nil {
		return exit.WithHint(fmt.Errorf("%s will not start at boot: %w", name, err), "%s, or on NixOS add it to microvm.autostart", useSudo)
	}
	term.Say(out, name, "starts at boot")
	return nil
}
