package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func newRestart(c *Command) *cobra.Command {
	return newPower(c, systemd.Restart, "Stop VMs and start them again with what is installed")
}
