package cli

import (
	"slices"

	"github.com/spf13/cobra"
)

// completion is how the arguments of a command are completed.
type completion int

const (
	// oneVM is one VM name.
	oneVM completion = iota + 1
	// someVMs is any number of VM names.
	someVMs
	// vmOrFile is a VM name, a package or a spec.
	vmOrFile
	// specFile is a spec file.
	specFile
)

// completions are the commands whose arguments can be completed.
var completions = map[string]completion{
	"status": oneVM, "logs": oneVM, "console": oneVM, "ssh": oneVM, "vsock-proxy": oneVM, "rollback": oneVM, "rm": oneVM, "analyze": oneVM, "doctor": oneVM,
	"update": someVMs, "start": someVMs, "stop": someVMs, "restart": someVMs, "enable": someVMs, "disable": someVMs,
	"run": vmOrFile, "show": vmOrFile, "shutdown": vmOrFile, "balloon": vmOrFile,
	"build": specFile,
}

// complete returns the function that completes a command's arguments. Files are
// offered only for commands that take files.
func complete(c *Command, how completion) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if how == specFile {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		}
		if how == 0 || len(args) > 0 && how != someVMs {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := c.Host.Names()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) })
		if how == vmOrFile {
			return names, cobra.ShellCompDirectiveDefault
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
