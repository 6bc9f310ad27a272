package cli

import "github.com/spf13/cobra"

// asBuiltFlag is for a package's own scripts, which are what its plan was written
// with: another program in their place may call them.
func asBuiltFlag(cmd *cobra.Command, asBuilt *bool) {
	const name = "as-built"
	cmd.Flags().BoolVar(asBuilt, name, false, "go by the package's plan, whatever its programs are")
	_ = cmd.Flags().MarkHidden(name)
}
