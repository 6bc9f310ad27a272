package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

const (
	// linesOfConsole is how much of a VM's own words status shows.
	linesOfConsole = 10
	// linesOfUnit is how much it shows of a helper that failed.
	linesOfUnit = 5
)

// vmStatus is one VM at a glance.
type vmStatus struct {
	row
	// Flake, Spec and Toplevel say where it comes from; at most one is set.
	Flake    string `json:"flake,omitempty"`
	Spec     string `json:"spec,omitempty"`
	Toplevel string `json:"toplevel,omitempty"`
	// foreign is a VM that something else installed.
	foreign bool
	// warning says what was off when it was built, and what to do.
	warning   string
	Directory string `json:"directory"`
	// AtBoot is systemd's UnitFileState of the VM's unit.
	AtBoot   string       `json:"atBoot,omitempty"`
	Report   string       `json:"report,omitempty"`
	Restarts uint32       `json:"restarts,omitempty"`
	PID      uint32       `json:"pid,omitempty"`
	Units    []unitStatus `json:"units,omitempty"`
	Last     []string     `json:"lastLines,omitempty"`
}

// unitStatus is one of a VM's units.
type unitStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Sub    string `json:"sub"`
	Result string `json:"result,omitempty"`
	// Last is what it logged last, where it failed.
	Last []string `json:"lastLines,omitempty"`
}

func (c *Command) status() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show one VM at a glance: its units, their errors, its last words",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, err := c.vm(args[0])
			if err != nil {
				return err
			}
			s, err := c.statusOf(cmd.Context(), vm)
			if err != nil {
				return err
			}
			if asJSON {
				return c.json(s)
			}
			c.printStatus(s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func (c *Command) statusOf(ctx context.Context, vm statedir.VM) (vmStatus, error) {
	s := vmStatus{row: describeVM(vm), Directory: vm.Dir()}
	from, err := vm.Origin()
	if err != nil {
		return s, err
	}
	s.Flake, s.Spec, s.Toplevel = from.Flake, from.Spec, from.Toplevel
	s.foreign = vm.Installed() && !vm.Created()
	if plan, ok := planAt(filepath.Join(vm.Dir(), "current")); ok && plan.CompiledFor != nil && plan.CompiledFor.Unknown {
		s.warning = printable.Line(plan.UnknownVersion()) + "; build it anew with: microvm update " + vm.Name
	}
	if !systemd.Running() {
		s.State = "unknown"
		return s, nil
	}
	if err := s.askSystemd(ctx, vm.Name); err != nil {
		return s, err
	}
	if up(s.State) {
		s.use(&cgroups{root: cgroupRoot})
		s.addresses(neighbours())
	}
	s.Last = lastLines(ctx, linesOfConsole, time.Time{}, unit.VM(vm.Name))
	return s, nil
}

// askSystemd fills in what systemd knows of the VM's units.
func (s *vmStatus) askSystemd(ctx context.Context, vm string) error {
	units, err := systemd.ListUnits(ctx, unit.All(vm)...)
	if err != nil {
		return err
	}
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return err
	}
	// Systemd loads all that the VM's unit comes after, whether it is used or not.
	needed := map[string]bool{unit.VM(vm): true}
	for _, h := range s.helpers {
		needed[h.Of(vm)] = true
	}
	loaded := map[string]systemd.Unit{}
	for _, u := range units {
		loaded[u.Name] = u
	}
	for _, name := range unit.All(vm) {
		u, ok := loaded[name]
		if !ok {
			continue
		}
		if u.Active == "inactive" && !needed[name] {
			continue
		}
		p := props[name]
		one := unitStatus{Name: name, State: u.Active, Sub: u.Sub, Result: systemd.Property[string](p, "Result")}
		if u.Active == "failed" {
			one.Last = lastLines(ctx, linesOfUnit, time.Time{}, name)
		}
		s.Units = append(s.Units, one)
		if name == unit.VM(vm) {
			s.State = u.Active
			if up(u.Active) {
				s.Report = systemd.Property[string](p, "StatusText")
			}
			s.Restarts = systemd.Property[uint32](p, "NRestarts")
			s.PID = systemd.Property[uint32](p, "MainPID")
		}
	}
	s.AtBoot = atBoot(vm)
	return nil
}

// atBoot says whether the target of all VMs wants this one: by a link, made by
// systemctl enable or by NixOS.
func atBoot(name string) string {
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/usr/local/lib/systemd/system"} {
		if _, err := os.Lstat(filepath.Join(dir, unit.Target+".wants", unit.VM(name))); err == nil {
			return "yes"
		}
	}
	return "no"
}

func (c *Command) printStatus(s vmStatus) {
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
	line("runner", paint(runnerColour(s.Runner), s.Runner)+s.remedy())
	line("hypervisor", s.Hypervisor)
	line("warning", s.warning)
	line("from", s.from())
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

// remedy says what to do where the VM does not run what is installed.
func (s vmStatus) remedy() string {
	switch s.Runner {
	case runnerStale:
		return fmt.Sprintf("; take what is installed with: microvm restart %s", s.Name)
	case runnerNotBooted:
		return fmt.Sprintf("; start it with: microvm start %s", s.Name)
	case runnerNone:
		return fmt.Sprintf("; its data is used again by: microvm create %s", s.Name)
	}
	return ""
}

func (s vmStatus) from() string {
	switch {
	case s.Toplevel != "":
		return "this host's configuration"
	case s.Flake != "":
		return "flake " + printable.Line(s.Flake)
	case s.Spec != "":
		return "spec " + printable.Line(s.Spec)
	case s.foreign:
		return "unknown, as this program did not install it"
	}
	return "a package"
}
