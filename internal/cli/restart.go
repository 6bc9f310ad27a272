package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func newRestart(c *Command) *cobra.Command {
	return newPower(c, systemd.Restart, "Restart VMs with the installed package")
}
