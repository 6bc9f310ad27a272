// Package cli is the microvm command: what people type.
package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
)

// Run does what the arguments say and returns the exit code: 0, 1 failed, 2
// wrong usage, 3 no such VM, 4 partly failed, 5 to 7 as above.
func (c *Command) Run(args []string) int {
	root := newRoot(c)
	args, err := fromFlags(completed(args))
	if err != nil {
		_ = exit.Report(c.Stderr, "microvm", "", err)
		return exit.CodeUsage
	}
	root.SetArgs(args)
	root.SetOut(c.Stdout)
	root.SetErr(c.Stderr)
	strictHelp(root) // writes the scripts where the root writes by now
	err = root.Execute()
	var several severalError
	if err == nil {
		return exit.CodeOK
	}
	_ = exit.Report(c.Stderr, "microvm", "", err)
	switch {
	case errors.As(err, &several):
		return several.code()
	case exit.IsUsage(err):
		return exit.CodeUsage
	}
	return codeOf(err)
}

func newRoot(c *Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "microvm",
		Short: "Build, run and look after microVMs",
		Long: "Build, run and look after microVMs.\n\n" +
			"The flags of microvm.nix's command are understood as well, and can be combined:\n\n" +
			"  -c NAME [-f FLAKE]  create\n" +
			"  -u NAME…            update; -Ru NAME… restarts what changed, too\n" +
			"  -r NAME             run\n" +
			"  -s NAME [ARGS]      ssh\n" +
			"  -l                  list",
		Version:       c.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) == 0 {
				return nil
			}
			return noCommand(cmd, words[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit.Usagef("%w; see: %s --help", err, cmd.CommandPath())
	})
	for _, sub := range []*cobra.Command{
		newBuild(c), newShow(c), newRun(c), newShutdown(c), newSchema(c), newHypervisors(c), newList(c), newBalloon(c), newGC(c),
		newCreate(c), newUpdate(c), newStatus(c), newLogs(c), newStart(c), newStop(c), newRestart(c), newEnable(c), newDisable(c),
		newRollback(c), newRm(c), newSSH(c), newVsockProxy(c), newConsole(c), newAnalyze(c), newDoctor(c), newMan(c),
	} {
		if sub.ValidArgsFunction == nil {
			sub.ValidArgsFunction = complete(c, completions[sub.Name()])
		}
		args := sub.Args
		sub.Args = func(cmd *cobra.Command, words []string) error {
			if args(cmd, words) == nil {
				return nil
			}
			return wrongWords(cmd, args, words)
		}
		root.AddCommand(sub)
	}
	return root
}
