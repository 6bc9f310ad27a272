package vm

import (
	"context"
	"time"

	"microvm/internal/doctor"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// Units returns the states of a VM's units by the names of their templates, nil if
// systemd is not running.
func Units(ctx context.Context, v statedir.VM) (map[string]doctor.Unit, error) {
	if !systemd.Running() {
		return nil, nil
	}
	units, err := systemd.ListUnits(ctx, unit.All(v.Name)...)
	if err != nil {
		return nil, err
	}
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return nil, err
	}
	out := map[string]doctor.Unit{}
	for _, u := range units {
		p := props[u.Name]
		template, _, ok := unit.Parse(u.Name)
		if !ok {
			continue // the unit that installs the VM
		}
		one := doctor.Unit{Active: u.Active, Sub: u.Sub, Result: systemd.Property[string](p, "Result"), Restarts: systemd.Property[uint32](p, "NRestarts")}
		one.Skipped = systemd.Property[uint64](p, "ConditionTimestamp") > 0 && !systemd.Property[bool](p, "ConditionResult")
		if u.Active == "failed" || one.KeepsFailing() || one.TriedAgain() {
			one.Last = LastLines(ctx, linesOfUnit, time.Time{}, u.Name)
		}
		out[template.Name] = one
	}
	return out, nil
}

// InUse returns a function that reports whether a VM runs, under systemd or in the
// foreground. If the units cannot be listed, it returns true for every VM.
func InUse(ctx context.Context, host statedir.Host) func(string) bool {
	active := map[string]bool{}
	if systemd.Running() {
		units, err := systemd.ListUnits(ctx, unit.Every)
		if err != nil {
			return func(string) bool { return true } // so that nothing is reported as a leftover
		}
		for _, u := range units {
			if _, name, ok := unit.Parse(u.Name); ok && u.Active != "inactive" && u.Active != "failed" {
				active[name] = true
			}
		}
	}
	return func(name string) bool {
		if active[name] {
			return true
		}
		v, err := host.VM(name)
		if err != nil || !v.Exists() {
			return false
		}
		unlock, err := LockForeground(v)
		if err != nil {
			return true
		}
		unlock()
		return false
	}
}
