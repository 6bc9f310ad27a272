package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
)

// noCommand is the error of a word that is none of cmd's commands.
func noCommand(cmd *cobra.Command, word string) error {
	hint := ""
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %q?)", near[0])
	}
	return exit.Usagef("there is no command %q%s; see: %s --help", strings.TrimPrefix(cmd.CommandPath()+" "+word, "microvm "), hint, cmd.CommandPath())
}

// strictHelp makes cobra's own commands, help and completion, refuse a word that
// they do not know: they print something else then, and all is well with them.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, words []string) error {
				of := root
				for _, word := range words {
					next, rest, err := of.Find([]string{word})
					if err != nil || next == of || len(rest) > 0 {
						return noCommand(of, word)
					}
					of = next
				}
				return nil
			}
		case "completion":
			cmd.Args = func(cmd *cobra.Command, words []string) error {
				if len(words) == 0 {
					return nil
				}
				return noCommand(cmd, words[0])
			}
			cmd.SuggestionsMinimumDistance = root.SuggestionsMinimumDistance
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// wrongWords says what is wrong with the number of a command's words: those that
// take asks for, as it refuses these.
func wrongWords(cmd *cobra.Command, take cobra.PositionalArgs, words []string) error {
	use := strings.TrimSuffix(cmd.UseLine(), " [flags]")
	for n := len(words) - 1; n >= 0; n-- {
		if take(cmd, words[:n]) == nil {
			return exit.Usagef("%q is one word too many; the command is: %s; see: %s --help", words[n], use, cmd.CommandPath())
		}
	}
	return exit.Usagef("a word is missing; the command is: %s; see: %s --help", use, cmd.CommandPath())
}
