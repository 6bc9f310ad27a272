package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/spec"
)

func (c *Command) schema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a spec",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.Stdout.Write(spec.Schema())
			return err
		},
	}
}
