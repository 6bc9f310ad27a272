package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func newStart(c *Command) *cobra.Command {
	return newPower(c, systemd.Start, "Start VMs and wait until they are ready")
}
