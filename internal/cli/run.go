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
		Long: "Run a VM in the foreground, without its units. As root this makes its interfaces,\n" +
			"takes its devices and serves its shares, runs the hypervisor as the hypervisors'\n" +
			"user, and takes all that back in the end. As anybody else it says what is missing.\n" +
			"ctrl-c asks the guest to go down; a second one ends it at once.\n\n" +
			"With --interactive the terminal is the guest's, ctrl-c included; it ends when the\n" +
			"guest goes down.\n\n" +
			"A runner package, DIR, runs in the current directory.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVarP(&o.interactive, "interactive", "i", false, "give the terminal to the guest's console")
	asBuiltFlag(cmd, &o.asBuilt)
	return cmd
}

func runRun(ctx context.Context, c *Command, o runOptions, word string) error {
	if err := start.Resume(); err != nil {
		return err
	}
	if _, err := os.Stat(word); !c.named(word) && (err == nil || strings.Contains(word, "/")) {
		return runPackage(c, o, word)
	}
	v, err := c.vm(word)
	if err != nil {
		return err
	}
	// With the terminal it hangs up, too.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return runVM(ctx, c, o, v)
}

// runPackage becomes the hypervisor of a package, in the current directory.
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

// runVM runs a VM where its units would, and leaves nothing.
func runVM(ctx context.Context, c *Command, o runOptions, v statedir.VM) error {
	if !v.Installed() {
		return notInstalled(v)
	}
	if err := asService(ctx, v); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		if err := os.Chdir(v.Dir()); err != nil {
			return fmt.Errorf("enter the directory of %s: %w; run it with sudo", v.Name, err)
		}
		return runPackage(c, runOptions{}, filepath.Join(v.Dir(), "current"))
	}
	unlock, err := vm.LockForeground(v)
	if err != nil {
		return err
	}
	defer unlock()
	// Children that are to die with us die with the thread that made them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// As the VM's unit has it: what the hypervisor makes does not depend on who
	// calls.
	unix.Umask(unitUmask)
	r := &foreground{c: c, vm: v}
	err = r.up(ctx)
	if err == nil {
		err = r.hypervisor(ctx, o.interactive)
	}
	return errors.Join(err, r.down())
}

// asService refuses a VM that systemd runs.
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
			return fmt.Errorf("%s is %s as a service; stop it first with: microvm stop %s, or attach to it with: microvm console %s", v.Name, u.Active, v.Name, v.Name)
		}
	}
	return nil
}
