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

	"microvm/internal/launch"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

func (c *Command) run() *cobra.Command {
	var interactive, asBuilt bool
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
			if err := launch.Resume(); err != nil {
				return err
			}
			if _, err := os.Stat(args[0]); !c.named(args[0]) && (err == nil || strings.Contains(args[0], "/")) {
				return c.runPackage(args[0], asBuilt)
			}
			v, err := c.vm(args[0])
			if err != nil {
				return err
			}
			// With the terminal it hangs up, too.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return c.runVM(ctx, v, interactive)
		},
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "give the terminal to the guest's console")
	asBuiltFlag(cmd, &asBuilt)
	return cmd
}

// asBuiltFlag is for a package's own scripts, which are what its plan was written
// with: another program in their place may call them.
func asBuiltFlag(cmd *cobra.Command, asBuilt *bool) {
	const name = "as-built"
	cmd.Flags().BoolVar(asBuilt, name, false, "go by the package's plan, whatever its programs are")
	_ = cmd.Flags().MarkHidden(name)
}

// runPackage becomes the hypervisor of a package, in the current directory.
func (c *Command) runPackage(dir string, asBuilt bool) error {
	p, err := launch.OpenPackage(dir)
	if err != nil {
		return err
	}
	if asBuilt {
		p.AsBuilt()
	}
	runtime.LockOSThread()
	l := &launch.Launcher{Stderr: c.Stderr, ByHand: true}
	return l.Exec(p, filepath.Base(filepath.Clean(dir)))
}

// runVM runs a VM where its units would, and leaves nothing.
func (c *Command) runVM(ctx context.Context, v statedir.VM, interactive bool) error {
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
		return c.runPackage(filepath.Join(v.Dir(), "current"), false)
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
		err = r.hypervisor(ctx, interactive)
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
