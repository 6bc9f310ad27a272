package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
)

// seeHelp returns err as a wrong command line of cmd, with a hint at its help.
func seeHelp(cmd *cobra.Command, err error) error {
	return exit.WithHint(exit.Usage(err), "see: %s --help", cmd.CommandPath())
}

// unknownCommand returns the error of a name that is not one of cmd's commands.
func unknownCommand(cmd *cobra.Command, name string) error {
	err := fmt.Errorf("unknown command %q", strings.TrimPrefix(cmd.CommandPath()+" "+name, "microvm "))
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return exit.WithHint(exit.Usage(err), "did you mean %q?", near[0])
	}
	return seeHelp(cmd, err)
}

// strictHelp makes cobra's own commands, help and completion, reject arguments that
// they do not know. By default they print some other help and exit with 0.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, names []string) error {
				parent := root
				for _, name := range names {
					next, rest, err := parent.Find([]string{name})
					if err != nil || next == parent || len(rest) > 0 {
						return unknownCommand(parent, name)
					}
					parent = next
				}
				return nil
			}
		case "completion":
			cmd.Args = func(cmd *cobra.Command, names []string) error {
				if len(names) == 0 {
					return nil
				}
				return unknownCommand(cmd, names[0])
			}
			cmd.SuggestionsMinimumDistance = root.SuggestionsMinimumDistance
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// wrongNumber returns the error of args that accepts rejects because there are too
// many or too few of them.
func wrongNumber(cmd *cobra.Command, accepts cobra.PositionalArgs, args []string) error {
	err := errors.New("missing argument")
	for n := len(args) - 1; n >= 0; n-- {
		if accepts(cmd, args[:n]) == nil {
			err = fmt.Errorf("unexpected argument %q", args[n])
			break
		}
	}
	return exit.WithHint(exit.Usage(err), "usage: %s", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
}
