package vm

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

const (
	// linesOfConsole is how many lines of a VM's log status shows.
	linesOfConsole = 10
	// linesOfUnit is how many lines it shows of a helper that failed.
	linesOfUnit = 5
)

// Status is the status of one VM.
type Status struct {
	Row
	// Flake, Spec and Toplevel are the source of its updates. At most one is set.
	Flake    string `json:"flake,omitempty"`
	Spec     string `json:"spec,omitempty"`
	Toplevel string `json:"toplevel,omitempty"`
	// Foreign is set if another program installed the VM.
	Foreign bool `json:"-"`
	// Warning is a problem of the build, with its remedy.
	Warning   string `json:"-"`
	Directory string `json:"directory"`
	// AtBoot is systemd's UnitFileState of the VM's unit.
	AtBoot   string       `json:"atBoot,omitempty"`
	Report   string       `json:"report,omitempty"`
	Restarts uint32       `json:"restarts,omitempty"`
	PID      uint32       `json:"pid,omitempty"`
	Units    []UnitStatus `json:"units,omitempty"`
	Last     []string     `json:"lastLines,omitempty"`
}

// UnitStatus is one of a VM's units.
type UnitStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Sub    string `json:"sub"`
	Result string `json:"result,omitempty"`
	// Last are its last log lines if it failed.
	Last []string `json:"lastLines,omitempty"`
}

// StatusOf returns the status of a VM from its files, its units and the journal.
func StatusOf(ctx context.Context, v statedir.VM) (Status, error) {
	s := Status{Row: Describe(v), Directory: v.Dir()}
	from, err := v.Origin()
	if err != nil {
		return s, err
	}
	s.Flake, s.Spec, s.Toplevel = from.Flake, from.Spec, from.Toplevel
	s.Foreign = v.Installed() && !v.Created()
	if plan, ok := PlanAt(filepath.Join(v.Dir(), "current")); ok && plan.CompiledFor != nil && plan.CompiledFor.Unknown {
		s.Warning = printable.Line(plan.UnknownVersion()) + " (rebuild it with: microvm update " + v.Name + ")"
	}
	if !systemd.Running() {
		s.State = "unknown"
		return s, nil
	}
	if err := s.askSystemd(ctx); err != nil {
		return s, err
	}
	if Up(s.State) {
		s.use(&cgroups{root: cgroupRoot})
		s.addresses(neighbours())
	}
	s.Last = LastLines(ctx, linesOfConsole, time.Time{}, unit.VM(v.Name))
	return s, nil
}

// askSystemd fills in the state of the VM's units.
func (s *Status) askSystemd(ctx context.Context) error {
	own := unit.VM(s.Name)
	units, err := systemd.ListUnits(ctx, unit.All(s.Name)...)
	if err != nil {
		return err
	}
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return err
	}
	// systemd loads all units after which the VM's unit is ordered, needed or not.
	needed := map[string]bool{own: true}
	for _, h := range s.helpers {
		needed[h.Of(s.Name)] = true
	}
	loaded := map[string]systemd.Unit{}
	for _, u := range units {
		loaded[u.Name] = u
	}
	for _, name := range unit.All(s.Name) {
		u, ok := loaded[name]
		if !ok {
			continue
		}
		if u.Active == "inactive" && !needed[name] {
			continue
		}
		p := props[name]
		one := UnitStatus{Name: name, State: u.Active, Sub: u.Sub, Result: systemd.Property[string](p, "Result")}
		if u.Active == "failed" {
			one.Last = LastLines(ctx, linesOfUnit, time.Time{}, name)
		}
		s.Units = append(s.Units, one)
		if name == own {
			s.State = u.Active
			if Up(u.Active) {
				s.Report = systemd.Property[string](p, "StatusText")
			}
			s.Restarts = systemd.Property[uint32](p, "NRestarts")
			s.PID = systemd.Property[uint32](p, "MainPID")
		}
	}
	s.AtBoot = atBoot(s.Name)
	return nil
}

// atBoot returns "yes" if the target of all VMs wants this one, else "no". systemctl
// enable and NixOS create a link for that.
func atBoot(name string) string {
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/usr/local/lib/systemd/system"} {
		if _, err := os.Lstat(filepath.Join(dir, unit.Target+".wants", unit.VM(name))); err == nil {
			return "yes"
		}
	}
	return "no"
}
