package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

func (c *Command) enable() *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME…",
		Short: "Make VMs start at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.eachVM(args, func(v statedir.VM) error {
				if !v.Installed() {
					return notInstalled(v)
				}
				return c.enableVM(cmd.Context(), v.Name)
			})
		},
	}
}

// enableVM enables the target of all VMs as well, without which enabling a VM
// has no effect.
func (c *Command) enableVM(ctx context.Context, name string) error {
	if err := systemd.Enable(ctx, []string{unit.Target, unit.VM(name)}); err != nil {
		return fmt.Errorf("%s will not start at boot: %w; run it with sudo, or on NixOS name it in microvm.autostart", name, err)
	}
	term.Say(c.Stdout, name, "starts at boot")
	return nil
}
