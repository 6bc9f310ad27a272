package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/start"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

// runOptions are the flags of run.
type runOptions struct{ interactive, asBuilt bool }

func newRun(c *Command) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run NAME|DIR",
		Short: "Run a VM, or a package, in the foreground",
		Long: "Run a VM in the foreground, without its units. As root, create its interfaces, bind\n" +
			"its devices, serve its shares, run the hypervisor as the hypervisors' user, and undo\n" +
			"all of that at the end. As any other user, report what is missing. ctrl-c asks the\n" +
			"guest to shut down; a second ctrl-c kills the hypervisor.\n\n" +
			"With --interactive, the terminal is the guest's console, which also gets ctrl-c; the\n" +
			"command ends when the guest shuts down.\n\n" +
			"A runner package, DIR, runs in the current directory.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVarP(&o.interactive, "interactive", "i", false, "use the terminal as the guest's console")
	asBuiltFlag(cmd, &o.asBuilt)
	return cmd
}

func runRun(ctx context.Context, c *Command, o runOptions, nameOrDir string) error {
	if err := start.Resume(); err != nil {
		return err
	}
	if _, err := os.Stat(nameOrDir); !c.named(nameOrDir) && (err == nil || strings.Contains(nameOrDir, "/")) {
		return runPackage(c, o, nameOrDir)
	}
	v, err := c.vm(nameOrDir)
	if err != nil {
		return err
	}
	// SIGHUP is the end of the terminal.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return runVM(ctx, c, o, v)
}

// runPackage executes the hypervisor of a package, in the current directory. It returns
// only on error.
func runPackage(c *Command, o runOptions, dir string) error {
	p, err := start.OpenPackage(dir)
	if err != nil {
		return err
	}
	if o.asBuilt {
		p.AsBuilt()
	}
	options := start.Options{Logf: exit.Logger(c.Stderr, "microvm"), ByHand: true}
	return start.Package(p, filepath.Base(filepath.Clean(dir)), options)
}

// runVM runs a VM as its units would, and cleans up.
func runVM(ctx context.Context, c *Command, o runOptions, v statedir.VM) error {
	if !v.Installed() {
		return notInstalled(v)
	}
	if err := asService(ctx, v); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		if err := os.Chdir(v.Dir()); err != nil {
			return exit.WithHint(fmt.Errorf("enter the directory of %s: %w", v.Name, err), useSudo)
		}
		return runPackage(c, runOptions{}, filepath.Join(v.Dir(), "current"))
	}
	unlock, err := vm.LockForeground(v)
	if err != nil {
		return err
	}
	defer unlock()
	// PR_SET_PDEATHSIG kills children when the thread that created them exits, prctl(2).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// As in the VM's unit: the modes of the hypervisor's files do not depend on the caller.
	unix.Umask(unitUmask)
	r := &foreground{c: c, vm: v}
	err = r.up(ctx)
	if err == nil {
		err = r.hypervisor(ctx, o.interactive)
	}
	return errors.Join(err, r.down())
}

// asService returns an error if systemd runs the VM.
func asService(ctx context.Context, v statedir.VM) error {
	if !systemd.Running() {
		return nil
	}
	units, err := systemd.ListUnits(ctx, unit.VM(v.Name))
	if err != nil {
		return err
	}
	for _, u := range units {
		if u.Active != "inactive" && u.Active != "failed" {
			return exit.WithHint(fmt.Errorf("%s is %s as a service", v.Name, u.Active),
				"stop it with: microvm stop %s, or attach to it with: microvm console %s", v.Name, v.Name)
		}
	}
	return nil
}
