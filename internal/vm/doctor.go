package vm

import (
	"context"
	"time"

	"microvm/internal/doctor"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// Units returns what systemd knows of a VM's units, by template; nil where systemd
// does not run.
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
			continue // the one that installs it
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

// InUse returns a function that reports whether systemd runs a VM, or somebody in
// the foreground. Where systemd cannot be asked, it reports that of every VM.
func InUse(ctx context.Context, host statedir.Host) func(string) bool {
	active := map[string]bool{}
	if systemd.Running() {
		units, err := systemd.ListUnits(ctx, unit.Every)
		if err != nil {
			return func(string) bool { return true } // unknown, and nothing is called a leftover
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
