// Package cli is the microvm command: what people type.
package cli

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// Exit codes beside those of every program of ours.
const (
	// exitNoVM: there is no such VM.
	exitNoVM = 3
	// exitPartly: some of several VMs failed.
	exitPartly = 4
	// exitCanceled: somebody else took back what was asked.
	exitCanceled = 5
	// exitLate: the VM was not ready, or not down, within its time.
	exitLate = 6
	// exitSkipped: a condition of the VM's unit does not hold.
	exitSkipped = 7
)

// Command is the microvm command of one host.
type Command struct {
	Host           statedir.Host
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// BinDir holds this command, Host.LibexecDir the helper programs; both go into the
	// packages that build makes.
	BinDir  string
	Version string
}

// errNoVM is a VM that does not exist.
type errNoVM struct{ name, dir string }

func (e errNoVM) Error() string {
	return fmt.Sprintf("there is no VM %q in %s; see what there is with: microvm list", e.name, e.dir)
}

// Run does what the arguments say and returns the exit code: 0, 1 failed, 2
// wrong usage, 3 no such VM, 4 partly failed, 5 to 7 as above.
func (c *Command) Run(args []string) int {
	root := c.root()
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

func (c *Command) root() *cobra.Command {
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
		c.build(), c.show(), c.run(), c.shutdown(), c.schema(), c.hypervisors(), c.list(), c.balloon(), c.gc(),
		c.create(), c.update(), c.status(), c.logs(), c.start(), c.stop(), c.restart(), c.enable(), c.disable(),
		c.rollback(), c.rm(), c.ssh(), c.vsockProxy(), c.console(), c.analyze(), c.doctor(), c.man(),
	} {
		if sub.ValidArgsFunction == nil {
			sub.ValidArgsFunction = c.complete(completions[sub.Name()])
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

func (c *Command) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stdout, format, args...)
}

// named says whether a word that may be a path as well is the name of a VM,
// whatever else is called so in the current directory: ./NAME is a path.
func (c *Command) named(word string) bool {
	v, err := c.Host.VM(word)
	return err == nil && v.Exists()
}

// anyVM returns a VM that need not exist. Only a bad name is wrong usage.
func (c *Command) anyVM(name string) (statedir.VM, error) {
	if _, err := c.Host.RealStateDir(); err != nil {
		return statedir.VM{}, err
	}
	v, err := c.Host.VM(name)
	if err != nil {
		return v, exit.Usage(err)
	}
	return v, nil
}

// vm returns an existing VM.
func (c *Command) vm(name string) (statedir.VM, error) {
	v, err := c.anyVM(name)
	if err != nil {
		return v, err
	}
	if !v.Exists() {
		return v, errNoVM{name, filepath.Clean(c.Host.StateDir)}
	}
	return v, nil
}
