package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func (c *Command) stop() *cobra.Command {
	return c.power(systemd.Stop, "Stop VMs cleanly, and wait until they are down")
}
