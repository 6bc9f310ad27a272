package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/doctor"
	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

func (c *Command) doctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [NAME]",
		Short: "Check what this host, or one VM, needs to run, and say what to do",
		Long: "Check what this host, or one VM, needs to run, and say what to do about each thing\n" +
			"that is wrong. For a VM it says what became of each of its units, too.\n\n" +
			"\"missing\" is what only some VMs need; the exit code is 1 where something failed.\n" +
			"Run it as root: others may not open KVM, and see no logs.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &doctor.Doctor{Host: c.Host, LibexecDir: c.Host.LibexecDir, Active: vmsInUse(cmd.Context(), c.Host)}
			var findings []doctor.Finding
			if len(args) == 0 {
				findings = d.Examine()
			} else {
				vm, err := c.vm(args[0])
				if err != nil {
					return err
				}
				if !vm.Installed() {
					return notInstalled(vm)
				}
				units, err := unitStates(cmd.Context(), vm)
				if err != nil {
					return err
				}
				findings = d.ExamineVM(vm, units)
			}
			return c.reportFindings(findings, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// vmsInUse says which VMs systemd runs, or somebody in the foreground.
func vmsInUse(ctx context.Context, host statedir.Host) func(string) bool {
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
		vm, err := host.VM(name)
		if err != nil || !vm.Exists() {
			return false
		}
		unlock, err := lockRun(vm)
		if err != nil {
			return true
		}
		unlock()
		return false
	}
}

// unitStates are a VM's units, by template.
func unitStates(ctx context.Context, vm statedir.VM) (map[string]doctor.Unit, error) {
	if !systemd.Running() {
		return nil, nil
	}
	units, err := systemd.ListUnits(ctx, unit.All(vm.Name)...)
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
			one.Last = lastLines(ctx, linesOfUnit, time.Time{}, u.Name)
		}
		out[template.Name] = one
	}
	return out, nil
}

// reportFindings prints what was found. It is an error where something failed.
func (c *Command) reportFindings(findings []doctor.Finding, asJSON bool) error {
	failed := 0
	for _, f := range findings {
		if f.Status == doctor.Failed {
			failed++
		}
	}
	if asJSON {
		if err := c.json(findings); err != nil {
			return err
		}
	} else {
		c.printFindings(findings)
	}
	if failed == 0 {
		return nil
	}
	if failed == 1 {
		return errors.New("1 check failed; do what it says beside \"do:\", and run it again")
	}
	return fmt.Errorf("%d checks failed; do what each says beside \"do:\", and run it again", failed)
}

func (c *Command) printFindings(findings []doctor.Finding) {
	paint := term.PaletteOf(c.Stdout)
	colours := map[string]string{doctor.OK: term.Green, doctor.Missing: term.Yellow, doctor.Failed: term.Red}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	for _, f := range findings {
		// Logs are among the details, and a guest's words among the logs.
		c.printf("%s %-*s  %s\n", paint(colours[f.Status], fmt.Sprintf("%-7s", f.Status)), width, f.Check, printable.Line(f.Detail))
		if f.Remedy != "" {
			c.printf("%-7s %-*s  do: %s\n", "", width, "", f.Remedy)
		}
	}
}
