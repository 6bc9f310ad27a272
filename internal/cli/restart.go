package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func (c *Command) restart() *cobra.Command {
	return c.power(systemd.Restart, "Stop VMs and start them again with what is installed")
}
