package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/timeline"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

// analyzeOptions are the flags of analyze.
type analyzeOptions struct {
	svg         string
	blame, json bool
}

func newAnalyze(c *Command) *cobra.Command {
	var o analyzeOptions
	cmd := &cobra.Command{
		Use:   "analyze NAME [--svg FILE] | analyze --blame",
		Short: "Show how long each part of a VM's last start took",
		Long: "Show how long each part of a VM's last start took: its helpers, the hypervisor, the\n" +
			"guest's kernel, and the guest until it was ready. The guest's part is shown separately\n" +
			"if the guest reports over vsock, the kernel's if it prints to the console. Only root\n" +
			"sees the parts that are taken from the journal.\n\n" +
			"With --blame, list all running VMs, the slowest first.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.blame && len(args) > 0:
				return exit.Usage(errors.New("NAME and --blame are mutually exclusive"))
			case !o.blame && len(args) == 0:
				return seeHelp(cmd, errors.New("a VM name or --blame is required"))
			case o.svg != "" && (o.blame || o.json):
				return exit.Usage(errors.New("--svg cannot be used with --blame or --json"))
			}
			if o.blame {
				return runBlame(cmd.Context(), c, o)
			}
			return runAnalyze(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().StringVar(&o.svg, "svg", "", "write the timeline to this file as an SVG image")
	cmd.Flags().BoolVar(&o.blame, "blame", false, "list all running VMs, the slowest first")
	cmd.Flags().BoolVar(&o.json, "json", false, "print as JSON")
	return cmd
}

func runAnalyze(ctx context.Context, c *Command, o analyzeOptions, name string) error {
	v, err := c.vm(name)
	if err != nil {
		return err
	}
	t, err := vm.LastStart(ctx, v)
	switch {
	case err != nil:
		return err
	case o.svg != "":
		return writeSVG(o.svg, v.Name, t)
	case o.json:
		return c.json(phasesOf(v.Name, t))
	}
	columns, _ := term.Size(c.Stdout)
	return t.Chart(c.Stdout, columns)
}

func writeSVG(path, name string, t timeline.Timeline) error {
	var out bytes.Buffer
	if err := t.SVG(&out, name); err != nil {
		return err
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write SVG image: %w", err)
	}
	return nil
}

// phase is the JSON form of a timeline.Phase.
type phase struct {
	Name    string  `json:"name"`
	What    string  `json:"what,omitempty"`
	Began   float64 `json:"beganSeconds"`
	Seconds float64 `json:"seconds"`
}

// analysis is the JSON form of a timeline.Timeline.
type analysis struct {
	VM      string  `json:"vm"`
	Seconds float64 `json:"seconds"`
	Phases  []phase `json:"phases"`
}

func phasesOf(name string, t timeline.Timeline) analysis {
	a := analysis{VM: name, Seconds: t.Total.Seconds()}
	for _, p := range t.Phases {
		a.Phases = append(a.Phases, phase{p.Name, p.What, p.Began.Seconds(), p.Took.Seconds()})
	}
	return a
}

// runBlame lists the running VMs by the time that their start took.
func runBlame(ctx context.Context, c *Command, o analyzeOptions) error {
	units, err := systemd.ListUnits(ctx, unit.EveryVM)
	if err != nil {
		return err
	}
	type start struct {
		name string
		timeline.Timeline
	}
	var starts []start
	for _, u := range units {
		name, _ := unit.VMOf(u.Name)
		v, err := c.Host.VM(name)
		if err != nil || u.Active != "active" {
			continue
		}
		t, err := vm.LastStart(ctx, v)
		if errors.As(err, new(vm.NotUpError)) {
			continue // it has gone down in the meantime
		}
		if err != nil {
			return err
		}
		starts = append(starts, start{name, t})
	}
	slices.SortFunc(starts, func(a, b start) int { return int(b.Total - a.Total) })
	if o.json {
		all := []analysis{}
		for _, s := range starts {
			all = append(all, phasesOf(s.name, s.Timeline))
		}
		return c.json(all)
	}
	rows := make([][]term.Cell, len(starts))
	for i, s := range starts {
		p := s.Longest()
		rows[i] = []term.Cell{{Text: timeline.Text(s.Total)}, {Text: s.name}, {Text: fmt.Sprintf("%s, %s", strings.TrimSpace(p.Name+" "+p.What), timeline.Text(p.Took))}}
	}
	term.Table(c.Stdout, term.PaletteOf(c.Stdout), []string{"READY AFTER", "NAME", "LONGEST"}, rows)
	return nil
}
