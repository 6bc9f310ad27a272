package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"microvm/internal/doctor"
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
		Short: "Check what this host, or one VM, needs to run, and say what to do",
		Long: "Check what this host, or one VM, needs to run, and say what to do about each thing\n" +
			"that is wrong. For a VM it says what became of each of its units, too.\n\n" +
			"\"missing\" is what only some VMs need; the exit code is 1 where something failed.\n" +
			"Run it as root: others may not open KVM, and see no logs.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDoctor(cmd.Context(), c, o, args)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the findings as JSON")
	return cmd
}

// runDoctor examines the host, or the one VM of names.
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

// reportFindings prints what was found. It is an error where something failed.
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
		return errors.New("1 check failed; do what it says beside \"do:\", and run it again")
	}
	return fmt.Errorf("%d checks failed; do what each says beside \"do:\", and run it again", failed)
}

func printFindings(c *Command, findings []doctor.Finding) {
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
