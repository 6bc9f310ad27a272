package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/timeline"
	"microvm/internal/unit"
)

func (c *Command) analyze() *cobra.Command {
	var svg string
	var blame, asJSON bool
	cmd := &cobra.Command{
		Use:   "analyze NAME [--svg FILE] | analyze --blame",
		Short: "Show where the time of a VM's last start went",
		Long: "Show where the time of a VM's last start went: in each of its helpers, the\n" +
			"hypervisor, the guest's kernel, and the guest until it was ready. The guest's part is\n" +
			"divided where the guest reports over vsock, the kernel's where it prints to the\n" +
			"console. Only root sees what is from the journal.\n\n" +
			"With --blame it lists all VMs that are up, the slowest first.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if blame != (len(args) == 0) {
				return exit.Usage(errors.New("name one VM, or give --blame for all; see: microvm analyze --help"))
			}
			if svg != "" && (blame || asJSON) {
				return exit.Usage(errors.New("--svg excludes --blame and --json; draw one VM's start with: microvm analyze NAME --svg FILE"))
			}
			if blame {
				return c.blame(cmd.Context(), asJSON)
			}
			vm, err := c.vm(args[0])
			if err != nil {
				return err
			}
			t, err := startOf(cmd.Context(), vm)
			switch {
			case err != nil:
				return err
			case svg != "":
				return writeSVG(svg, vm.Name, t)
			case asJSON:
				return c.json(phasesOf(vm.Name, t))
			}
			columns, _ := term.Size(c.Stdout)
			return t.Chart(c.Stdout, columns)
		},
	}
	cmd.Flags().StringVar(&svg, "svg", "", "write a drawing to this file")
	cmd.Flags().BoolVar(&blame, "blame", false, "list all VMs, the slowest first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func writeSVG(path, name string, t timeline.Timeline) error {
	var out bytes.Buffer
	if err := t.SVG(&out, name); err != nil {
		return err
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the drawing: %w", err)
	}
	return nil
}

// notUpError is a VM whose start cannot be taken apart.
type notUpError struct{ name, state string }

func (e notUpError) Error() string {
	return fmt.Sprintf("%s is %s, and only a start that ended well can be taken apart; see what is wrong with: microvm status %s", e.name, e.state, e.name)
}

// startOf reads a VM's last start from systemd and the journal.
func startOf(ctx context.Context, vm statedir.VM) (timeline.Timeline, error) {
	units, err := systemd.ListUnits(ctx, unit.All(vm.Name)...)
	if err != nil {
		return timeline.Timeline{}, err
	}
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return timeline.Timeline{}, err
	}
	own := props[unit.VM(vm.Name)]
	if state := systemd.Property[string](own, "ActiveState"); state != "active" {
		if state == "" {
			state = "inactive"
		}
		return timeline.Timeline{}, notUpError{vm.Name, state}
	}
	s := timeline.Start{
		VM:        unitTimes(unit.Main.Name, own),
		Executed:  clock(own, "ExecMainStartTimestampMonotonic"),
		Restarted: systemd.Property[uint32](own, "NRestarts") > 0,
	}
	for _, name := range unit.All(vm.Name) {
		if p, ok := props[name]; ok && name != unit.VM(vm.Name) {
			piece := "install"
			if t, _, ok := unit.Parse(name); ok {
				piece = strings.TrimPrefix(t.Name, "microvm-")
			}
			s.Helpers = append(s.Helpers, unitTimes(piece, p))
		}
	}
	s.Log = startLog(ctx, own)
	return timeline.Of(s), nil
}

func unitTimes(name string, p map[string]dbus.Variant) timeline.Unit {
	return timeline.Unit{Name: name, Began: clock(p, "InactiveExitTimestampMonotonic"), Active: clock(p, "ActiveEnterTimestampMonotonic")}
}

// clock is one of systemd's timestamps, which are in microseconds.
func clock(p map[string]dbus.Variant, name string) timeline.Clock {
	return time.Duration(systemd.Property[uint64](p, name)) * time.Microsecond
}

// startLog is what the VM's unit logged in this start, up to READY; empty where
// the journal cannot be read.
func startLog(ctx context.Context, p map[string]dbus.Variant) []timeline.Entry {
	id, ready := systemd.Property[[]byte](p, "InvocationID"), systemd.Property[uint64](p, "ActiveEnterTimestamp")
	if len(id) == 0 || ready == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, journalLimit)
	defer cancel()
	syncJournal(ctx)
	// What the guest prints once it is up is nobody's business here, and may be long.
	const after = 1000000
	until := fmt.Sprintf("--until=@%d.%06d", (ready+after)/1000000, (ready+after)%1000000)
	//nolint:gosec // words of our own
	out, err := exec.CommandContext(ctx, "journalctl", "--quiet", "--output=json", "--output-fields=MESSAGE,"+timeline.ReadyField+","+timeline.ReportField, until,
		"_SYSTEMD_INVOCATION_ID="+hex.EncodeToString(id)).Output()
	if err != nil {
		return nil
	}
	return readEntries(out)
}

// readEntries reads what journalctl prints as JSON, one entry a line. A field that is
// not text is an array of bytes, and one that is there twice an array of texts,
// systemd.journal-fields(7): of such an entry nothing is used.
func readEntries(out []byte) []timeline.Entry {
	var log []timeline.Entry
	for line := range bytes.Lines(out) {
		var fields map[string]string
		if json.Unmarshal(line, &fields) != nil {
			continue
		}
		at, err := strconv.ParseInt(fields["__MONOTONIC_TIMESTAMP"], 10, 64)
		if err != nil {
			continue
		}
		log = append(log, timeline.Entry{
			At: time.Duration(at) * time.Microsecond, Text: strings.TrimRight(fields["MESSAGE"], "\r"),
			Ready: timeline.Micros(fields[timeline.ReadyField]), Report: timeline.Micros(fields[timeline.ReportField]),
		})
	}
	return log
}

// phase is a timeline.Phase for programs.
type phase struct {
	Name    string  `json:"name"`
	What    string  `json:"what,omitempty"`
	Began   float64 `json:"beganSeconds"`
	Seconds float64 `json:"seconds"`
}

// analysis is a timeline.Timeline for programs.
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

// blame lists the VMs that are up by how long their start took.
func (c *Command) blame(ctx context.Context, asJSON bool) error {
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
		vm, err := c.Host.VM(name)
		if err != nil || u.Active != "active" {
			continue
		}
		t, err := startOf(ctx, vm)
		if errors.As(err, new(notUpError)) {
			continue // it went down meanwhile
		}
		if err != nil {
			return err
		}
		starts = append(starts, start{name, t})
	}
	slices.SortFunc(starts, func(a, b start) int { return int(b.Total - a.Total) })
	if asJSON {
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
