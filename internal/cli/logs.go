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
	// limited reports whether lines was given.
	limited bool
}

func newLogs(c *Command) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME [-f] [-n LINES] [-- ARGS]",
		Short: "Show the logs of all units of a VM, including its console",
		Long: "Show the logs of all units of a VM, including its console.\n" +
			"ARGS are passed to journalctl, as in: microvm logs web -- --since today",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.limited = cmd.Flags().Changed("lines")
			return runLogs(cmd.Context(), c, o, args, cmd.ArgsLenAtDash())
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "keep printing new log lines")
	cmd.Flags().IntVarP(&o.lines, "lines", "n", 0, "print only the last LINES")
	return cmd
}

// runLogs prints the logs of the VM args[0]. The remaining arguments are journalctl's and
// must follow a "--"; dash is the number of arguments before it, or -1.
func runLogs(ctx context.Context, c *Command, o logsOptions, args []string, dash int) error {
	v, err := c.vm(args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 && dash != 1 {
		return exit.WithHint(exit.Usagef("unexpected argument %q", args[1]), "put arguments for journalctl after --")
	}
	options := []string{}
	for _, u := range unit.All(v.Name) {
		options = append(options, "--unit="+u)
	}
	if o.follow {
		options = append(options, fromHere(ctx, options, args[1:])...)
		options = append(options, "--follow")
	}
	if o.lines < 0 {
		return exit.Usagef("invalid number of lines %d: must not be negative", o.lines)
	}
	if o.limited {
		options = append(options, fmt.Sprintf("--lines=%d", o.lines))
	}
	if !term.IsTerminal(c.Stdout) {
		options = append(options, "--no-pager")
	}
	return journalctl(ctx, c, append(options, args[1:]...))
}

// fromHere returns the arguments that journalctl needs to follow units that have not
// logged anything yet. Without them journalctl 257 prints only the last of the lines
// that come first, because it stays at the tail that it has sought.
func fromHere(ctx context.Context, units, args []string) []string {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-S") || strings.HasPrefix(arg, "--since") || strings.Contains(arg, "cursor") || strings.HasPrefix(arg, "-c") {
			return nil // they say where to begin
		}
	}
	now := time.Now()
	ctx, cancel := context.WithTimeout(ctx, vm.JournalLimit)
	defer cancel()
	one := slices.Concat(units, args, []string{"--quiet", "--no-pager", "--lines=1"})
	out, err := exec.CommandContext(ctx, "journalctl", one...).Output() //nolint:gosec // the caller's own arguments
	if err != nil || len(out) > 0 {
		return nil // an error is reported by the journalctl that follows
	}
	return []string{fmt.Sprintf("--since=@%d.%06d", now.Unix(), now.Nanosecond()/1000)}
}

func journalctl(ctx context.Context, c *Command, args []string) error {
	cmd := exec.CommandContext(ctx, "journalctl", args...) //nolint:gosec // the caller's own arguments
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if errors.Is(err, exec.ErrNotFound) {
		return exit.WithHint(errors.New("journalctl not found"), "install systemd")
	}
	if errors.As(err, &failed) {
		return exit.WithHint(fmt.Errorf("journalctl: %w", err), seeAbove)
	}
	return err
}
