package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/term"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

// logsOptions are the flags of logs.
type logsOptions struct {
	follow bool
	lines  int
	// limited says that lines is given.
	limited bool
}

func newLogs(c *Command) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME [-f] [-n LINES] [-- ARGS]",
		Short: "Print what all units of a VM logged, its console among it",
		Long: "Print what all units of a VM logged, its console among it.\n" +
			"ARGS go to journalctl, as in: microvm logs web -- --since today",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.limited = cmd.Flags().Changed("lines")
			return runLogs(cmd.Context(), c, o, args, cmd.ArgsLenAtDash())
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on printing what is logged")
	cmd.Flags().IntVarP(&o.lines, "lines", "n", 0, "print the last LINES only")
	return cmd
}

// runLogs shows the units of the VM args[0]; what follows is for journalctl, and has
// to come after a "--", before which there were dash arguments.
func runLogs(ctx context.Context, c *Command, o logsOptions, args []string, dash int) error {
	v, err := c.vm(args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 && dash != 1 {
		return exit.Usagef("logs shows one VM, and %q is one word too many; give words for journalctl after --", args[1])
	}
	words := []string{}
	for _, u := range unit.All(v.Name) {
		words = append(words, "--unit="+u)
	}
	if o.follow {
		words = append(words, fromHere(ctx, words, args[1:])...)
		words = append(words, "--follow")
	}
	if o.lines < 0 {
		return exit.Usagef("%d is no number of lines; give one from 0 on", o.lines)
	}
	if o.limited {
		words = append(words, fmt.Sprintf("--lines=%d", o.lines))
	}
	if !term.IsTerminal(c.Stdout) {
		words = append(words, "--no-pager")
	}
	return journalctl(ctx, c, append(words, args[1:]...))
}

// fromHere returns what journalctl needs to follow units that have logged nothing
// yet from now on. Without it, and with nothing to begin from, journalctl 257 prints
// only the last of the lines that come first: it stays at the tail that it sought.
func fromHere(ctx context.Context, units, args []string) []string {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-S") || strings.HasPrefix(arg, "--since") || strings.Contains(arg, "cursor") || strings.HasPrefix(arg, "-c") {
			return nil // it begins there
		}
	}
	now := time.Now()
	ctx, cancel := context.WithTimeout(ctx, vm.JournalLimit)
	defer cancel()
	one := slices.Concat(units, args, []string{"--quiet", "--no-pager", "--lines=1"})
	out, err := exec.CommandContext(ctx, "journalctl", one...).Output() //nolint:gosec // the caller's own words
	if err != nil || len(out) > 0 {
		return nil // what is wrong, journalctl says when it follows
	}
	return []string{fmt.Sprintf("--since=@%d.%06d", now.Unix(), now.Nanosecond()/1000)}
}

func journalctl(ctx context.Context, c *Command, args []string) error {
	cmd := exec.CommandContext(ctx, "journalctl", args...) //nolint:gosec // the caller's own words
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("journalctl is not installed, so there are no logs to read; install systemd")
	}
	if errors.As(err, &failed) {
		return fmt.Errorf("journalctl failed (%w); it says why above", err)
	}
	return err
}
