package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/printable"
	"microvm/internal/term"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

// statusOptions are the flags of status.
type statusOptions struct{ json bool }

func newStatus(c *Command) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show the state of a VM: its units, their errors and its last log lines",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStatus(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print as JSON")
	return cmd
}

func runStatus(ctx context.Context, c *Command, o statusOptions, name string) error {
	v, err := c.vm(name)
	if err != nil {
		return err
	}
	s, err := vm.StatusOf(ctx, v)
	if err != nil {
		return err
	}
	if o.json {
		return c.json(s)
	}
	printStatus(c, s)
	return nil
}

func printStatus(c *Command, s vm.Status) {
	paint := term.PaletteOf(c.Stdout)
	line := func(label, text string) {
		if text != "" {
			c.printf("%-11s %s\n", label, text)
		}
	}
	state := paint(stateColour(s.State), s.State)
	if !s.Since.IsZero() {
		state += ", up " + term.Ago(time.Since(s.Since))
	}
	if s.Restarts > 0 {
		state += fmt.Sprintf(", restarted %d times", s.Restarts)
	}
	c.printf("%s\n", paint(term.Bold, s.Name))
	line("state", state)
	line("runner", paint(runnerColour(s.Runner), s.Runner))
	line("hint", hintOf(s))
	line("hypervisor", s.Hypervisor)
	line("warning", s.Warning)
	line("from", sourceOf(s))
	line("directory", s.Directory)
	line("at boot", s.AtBoot)
	if s.PID != 0 {
		line("process", fmt.Sprintf("%d, %s of memory, %.1fs of CPU", s.PID, term.Bytes(s.Memory), s.CPU))
	}
	line("addresses", strings.Join(s.Addresses, ", "))
	line("reports", printable.Line(s.Report))
	for _, u := range s.Units {
		text := fmt.Sprintf("%s: %s (%s)", unit.Short(u.Name), u.State, u.Sub)
		if u.Result != "" && u.Result != "success" {
			text += ", " + u.Result
		}
		line("unit", paint(stateColour(u.State), text))
		for _, l := range u.Last {
			c.printf("%-11s   %s\n", "", l)
		}
	}
	if len(s.Last) > 0 {
		c.printf("last lines\n")
	}
	for _, l := range s.Last {
		c.printf("  %s\n", l)
	}
}

// hintOf returns what to do if the VM does not run the installed package.
func hintOf(s vm.Status) string {
	switch s.Runner {
	case vm.RunnerStale:
		return "switch to the installed package with: microvm restart " + s.Name
	case vm.RunnerNotBooted:
		return "start it with: microvm start " + s.Name
	case vm.RunnerDataOnly:
		return "create it again with its data: microvm create " + s.Name
	}
	return ""
}

// sourceOf returns where a VM comes from.
func sourceOf(s vm.Status) string {
	switch {
	case s.Toplevel != "":
		return "this host's configuration"
	case s.Flake != "":
		return "flake " + printable.Line(s.Flake)
	case s.Spec != "":
		return "spec " + printable.Line(s.Spec)
	case s.Foreign:
		return "unknown (not installed by microvm)"
	}
	return "a package"
}
