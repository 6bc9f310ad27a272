package cli

import (
	"slices"

	"github.com/spf13/cobra"
)

// How the arguments of a command are completed.
type completion int

const (
	// oneVM is the name of a VM, and nothing more.
	oneVM completion = iota + 1
	// someVMs are the names of several.
	someVMs
	// vmOrFile is the name of a VM, a package or a spec.
	vmOrFile
	// specFile is a spec.
	specFile
)

// completions are the commands whose arguments mean something.
var completions = map[string]completion{
	"status": oneVM, "logs": oneVM, "console": oneVM, "ssh": oneVM, "vsock-proxy": oneVM, "rollback": oneVM, "rm": oneVM, "analyze": oneVM, "doctor": oneVM,
	"update": someVMs, "start": someVMs, "stop": someVMs, "restart": someVMs, "enable": someVMs, "disable": someVMs,
	"run": vmOrFile, "show": vmOrFile, "shutdown": vmOrFile, "balloon": vmOrFile,
	"build": specFile,
}

// complete is what a shell offers for a command's arguments. No command is
// offered files where it takes none.
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
