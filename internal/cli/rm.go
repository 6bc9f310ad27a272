package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/printable"
	"microvm/internal/programs"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

// rmOptions are the flags of rm.
type rmOptions struct{ keepData, yes bool }

func newRm(c *Command) *cobra.Command {
	var o rmOptions
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a stopped VM and its data",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRm(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.keepData, "keep-data", false, "keep the files in the VM's directory, such as volumes")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	return cmd
}

func runRm(ctx context.Context, c *Command, o rmOptions, name string) error {
	v, err := c.vm(name)
	if err != nil {
		return err
	}
	if err := needsRoot("removing a VM"); err != nil {
		return err
	}
	if err := removable(ctx, v); err != nil {
		return err
	}
	if !o.yes {
		ok, err := term.Confirm(c.Stdin, c.Stderr, question(v, o))
		if err != nil {
			return exit.WithHint(fmt.Errorf("refusing to remove %s without confirmation: %w", v.Name, err), "use --yes")
		}
		if !ok {
			return fmt.Errorf("canceled: %s was not removed", v.Name)
		}
		// The answer may have taken a long time.
		if err := removable(ctx, v); err != nil {
			return err
		}
	}
	if err := retire(ctx, c.Stderr, v); err != nil {
		return err
	}
	if o.keepData {
		if err := v.RemoveKeepingData(ctx, systemd.Reload); err != nil {
			return err
		}
		term.Say(c.Stdout, v.Name, "removed; its data is in %s", v.Dir())
		return nil
	}
	mounted := v.Mounted()
	if err := v.Remove(ctx, systemd.Reload); err != nil {
		return err
	}
	if mounted {
		term.Say(c.Stdout, v.Name, "removed; %s is a mount point, so it was emptied but not deleted", v.Dir())
		return nil
	}
	term.Say(c.Stdout, v.Name, "removed")
	return nil
}

// removable returns an error if a VM cannot be removed now.
func removable(ctx context.Context, v statedir.VM) error {
	install := filepath.Join("/etc/systemd/system", unit.Install(v.Name))
	if _, err := os.Lstat(install); err == nil {
		return exit.WithHint(fmt.Errorf("%s is declared by this host's configuration", v.Name), "remove it from microvm.vms and run: nixos-rebuild switch")
	}
	if !systemd.Running() {
		return nil
	}
	units, err := systemd.ListUnits(ctx, unit.VM(v.Name))
	if err != nil {
		return err
	}
	for _, u := range units {
		if vm.Up(u.Active) {
			return exit.WithHint(fmt.Errorf("%s is %s", v.Name, u.Active), "stop it first with: microvm stop %s", v.Name)
		}
	}
	return nil
}

func question(v statedir.VM, o rmOptions) string {
	if o.keepData {
		return fmt.Sprintf("Remove VM %s and keep its data in %s?", v.Name, v.Dir())
	}
	return fmt.Sprintf("Remove VM %s and all its data in %s (%s)?", v.Name, v.Dir(), contentsOf(v.Dir()))
}

// contentsOf describes the files in a VM's directory that rm deletes, apart from our own.
func contentsOf(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "unreadable"
	}
	const most = 5
	var names []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode()&os.ModeSymlink != 0 || e.Name() == "flake" || e.Name() == "spec" {
			continue
		}
		name := printable.Line(e.Name())
		if info.Mode().IsRegular() {
			name += " " + term.Bytes(uint64(info.Size()))
		}
		names = append(names, name)
	}
	switch {
	case len(names) == 0:
		return "no files"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// retire undoes what is outside of the VM's directory: it disables the VM, and cleans up
// what its helpers have left.
func retire(ctx context.Context, stderr io.Writer, v statedir.VM) error {
	if systemd.Running() {
		if err := systemd.Disable(ctx, []string{unit.VM(v.Name)}); err != nil {
			return exit.WithHint(fmt.Errorf("%s still starts at boot: %w", v.Name, err), "on NixOS remove it from microvm.autostart")
		}
		if err := stopHelpers(ctx, v.Name); err != nil {
			return err
		}
	}
	if _, err := os.Stat(v.RuntimeDir()); err != nil {
		return nil // they have left nothing
	}
	undo := []func([]string, statedir.Host, io.Writer) int{programs.Tap, programs.Macvtap, programs.PCI, programs.Virtiofsd}
	for _, down := range undo {
		if code := down([]string{"down", v.Name}, v.Host, stderr); code != exit.CodeOK {
			return exit.WithHint(fmt.Errorf("%s was not removed, because one of its helpers failed to clean up", v.Name), seeAbove)
		}
	}
	return v.ClearBooted()
}

// stopHelpers stops the VM's helpers that are still active, and resets failed ones.
func stopHelpers(ctx context.Context, name string) error {
	units, err := systemd.ListUnits(ctx, unit.EveryOf(name))
	if err != nil {
		return err
	}
	var active []string
	for _, u := range units {
		if u.Active == "failed" {
			if err := systemd.ResetFailed(ctx, u.Name); err != nil {
				return err
			}
		}
		if vm.Up(u.Active) {
			active = append(active, u.Name)
		}
	}
	var errs error
	err = systemd.RunJobs(ctx, systemd.Stop, active, func(r systemd.Result) {
		if r.Err == nil && r.Result != systemd.Done {
			r.Err = fmt.Errorf("%s did not stop: %s", unit.Short(r.Unit), judge(jobFacts{job: systemd.Stop, name: name, result: r}).text)
		}
		errs = errors.Join(errs, r.Err)
	})
	return errors.Join(err, errs)
}
