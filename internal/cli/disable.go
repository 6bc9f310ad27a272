package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

func (c *Command) disable() *cobra.Command {
	return &cobra.Command{
		Use:   "disable NAME…",
		Short: "Stop starting VMs at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.eachVM(args, func(v statedir.VM) error {
				if err := systemd.Disable(cmd.Context(), []string{unit.VM(v.Name)}); err != nil {
					return fmt.Errorf("%s still starts at boot: %w; run it with sudo, or on NixOS take it from microvm.autostart", v.Name, err)
				}
				term.Say(c.Stdout, v.Name, "does not start at boot")
				return nil
			})
		},
	}
}
