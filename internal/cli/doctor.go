package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/doctor"
	"microvm/internal/exit"
	"microvm/internal/printable"
	"microvm/internal/term"
	"microvm/internal/vm"
)

// doctorOptions are the flags of doctor.
type doctorOptions struct{ json bool }

func newDoctor(c *Command) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [NAME]",
		Short: "Check this host, or one VM, and show how to fix what is wrong",
		Long: "Check whether this host, or one VM, has everything it needs, and show how to fix what\n" +
			"is wrong. For a VM, also show the state of each of its units.\n\n" +
			"\"missing\" marks what only some VMs need. The exit code is 1 if a check failed.\n" +
			"Run it as root: other users may not be able to open KVM or to read the logs.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDoctor(cmd.Context(), c, o, args)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the results as JSON")
	return cmd
}

// runDoctor checks the host, or the one VM in names.
func runDoctor(ctx context.Context, c *Command, o doctorOptions, names []string) error {
	d := &doctor.Doctor{Host: c.Host, LibexecDir: c.Host.LibexecDir, Active: vm.InUse(ctx, c.Host)}
	if len(names) == 0 {
		return reportFindings(c, o, d.Examine())
	}
	v, err := c.vm(names[0])
	if err != nil {
		return err
	}
	if !v.Installed() {
		return notInstalled(v)
	}
	units, err := vm.Units(ctx, v)
	if err != nil {
		return err
	}
	return reportFindings(c, o, d.ExamineVM(v, units))
}

// reportFindings prints findings. It returns an error if one of them failed.
func reportFindings(c *Command, o doctorOptions, findings []doctor.Finding) error {
	failed := 0
	for _, f := range findings {
		if f.Status == doctor.Failed {
			failed++
		}
	}
	if o.json {
		if err := c.json(findings); err != nil {
			return err
		}
	} else {
		printFindings(c, findings)
	}
	if failed == 0 {
		return nil
	}
	if failed == 1 {
		return exit.WithHint(errors.New("1 check failed"), "apply the fix listed above and run microvm doctor again")
	}
	return exit.WithHint(fmt.Errorf("%d checks failed", failed), "apply the fixes listed above and run microvm doctor again")
}

func printFindings(c *Command, findings []doctor.Finding) {
	paint := term.PaletteOf(c.Stdout)
	colours := map[string]string{doctor.OK: term.Green, doctor.Missing: term.Yellow, doctor.Failed: term.Red}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	for _, f := range findings {
		// A detail can contain log lines, and these contain text from guests.
		c.printf("%s %-*s  %s\n", paint(colours[f.Status], fmt.Sprintf("%-7s", f.Status)), width, f.Check, printable.Line(f.Detail))
		if f.Remedy != "" {
			c.printf("%-7s %-*s  hint: %s\n", "", width, "", f.Remedy)
		}
	}
}
