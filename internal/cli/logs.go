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

func (c *Command) logs() *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs NAME [-f] [-n LINES] [-- ARGS]",
		Short: "Print what all units of a VM logged, its console among it",
		Long: "Print what all units of a VM logged, its console among it.\n" +
			"ARGS go to journalctl, as in: microvm logs web -- --since today",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := c.vm(args[0])
			if err != nil {
				return err
			}
			if len(args) > 1 && cmd.ArgsLenAtDash() != 1 {
				return exit.Usagef("logs shows one VM, and %q is one word too many; give words for journalctl after --", args[1])
			}
			words := []string{}
			for _, u := range unit.All(v.Name) {
				words = append(words, "--unit="+u)
			}
			if follow {
				words = append(words, fromHere(cmd.Context(), words, args[1:])...)
				words = append(words, "--follow")
			}
			if lines < 0 {
				return exit.Usagef("%d is no number of lines; give one from 0 on", lines)
			}
			if cmd.Flags().Changed("lines") {
				words = append(words, fmt.Sprintf("--lines=%d", lines))
			}
			if !term.IsTerminal(c.Stdout) {
				words = append(words, "--no-pager")
			}
			return c.journalctl(cmd.Context(), append(words, args[1:]...))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what is logged")
	cmd.Flags().IntVarP(&lines, "lines", "n", 0, "print the last LINES only")
	return cmd
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

func (c *Command) journalctl(ctx context.Context, args []string) error {
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
