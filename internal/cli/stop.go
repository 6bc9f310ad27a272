package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func newStop(c *Command) *cobra.Command {
	return newPower(c, systemd.Stop, "Stop VMs cleanly and wait until they are down")
}
