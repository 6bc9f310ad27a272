package cli

import "github.com/spf13/cobra"

// asBuiltFlag adds the hidden flag that a package's own scripts pass: they follow the
// package's plan even if somebody has put other programs in their place, which may in
// turn call these scripts.
func asBuiltFlag(cmd *cobra.Command, asBuilt *bool) {
	const name = "as-built"
	cmd.Flags().BoolVar(asBuilt, name, false, "follow the package's plan, even if its programs were replaced")
	_ = cmd.Flags().MarkHidden(name)
}
