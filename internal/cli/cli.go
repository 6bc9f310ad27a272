// Package cli implements the microvm command.
package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
)

// Run executes the command line args, without the program's name, and returns the
// exit code: one of those of internal/exit, or of exitcode.go.
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
	strictHelp(root) // after SetOut, as it copies where the root command writes to
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
		Short: "Build, run and manage microVMs",
		Long: "Build, run and manage microVMs.\n\n" +
			"The flags of microvm.nix's command are supported, too, and can be combined:\n\n" +
			"  -c NAME [-f FLAKE]  create\n" +
			"  -u NAME…            update; -Ru NAME… also restarts what changed\n" +
			"  -r NAME             run\n" +
			"  -s NAME [ARGS]      ssh\n" +
			"  -l                  list",
		Version:       c.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				return nil
			}
			return unknownCommand(cmd, names[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(seeHelp)
	for _, sub := range []*cobra.Command{
		newBuild(c), newShow(c), newRun(c), newShutdown(c), newSchema(c), newHypervisors(c), newList(c), newBalloon(c), newGC(c),
		newCreate(c), newUpdate(c), newStatus(c), newLogs(c), newStart(c), newStop(c), newRestart(c), newEnable(c), newDisable(c),
		newRollback(c), newRm(c), newSSH(c), newVsockProxy(c), newConsole(c), newAnalyze(c), newDoctor(c), newMan(c),
	} {
		if sub.ValidArgsFunction == nil {
			sub.ValidArgsFunction = complete(c, completions[sub.Name()])
		}
		accepts := sub.Args
		sub.Args = func(cmd *cobra.Command, args []string) error {
			if accepts(cmd, args) == nil {
				return nil
			}
			return wrongNumber(cmd, accepts, args)
		}
		root.AddCommand(sub)
	}
	return root
}
