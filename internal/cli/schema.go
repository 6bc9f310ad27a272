package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/spec"
)

func newSchema(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a spec",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runSchema(c) },
	}
}

func runSchema(c *Command) error {
	_, err := c.Stdout.Write(spec.Schema())
	return err
}
