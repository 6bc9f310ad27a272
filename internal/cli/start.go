package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func (c *Command) start() *cobra.Command {
	return c.power(systemd.Start, "Start VMs, and wait until they are ready")
}
