package cli

import "github.com/spf13/cobra"

func newGC(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove unused packages from the store",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runGC(c) },
	}
}

func runGC(c *Command) error {
	if err := needsRoot("removing packages"); err != nil {
		return err
	}
	removed, err := c.Host.CollectGarbage()
	for _, path := range removed {
		c.printf("removed %s\n", path)
	}
	return err
}
