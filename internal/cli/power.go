package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
)

// linesOfFailure is how much a unit that failed may say.
const linesOfFailure = 12

// interruptible returns a context that ends with the first SIGINT or SIGTERM, or
// with the terminal, so that what is half done can be taken back. The second ends
// the program.
func interruptible(ctx context.Context) (context.Context, func()) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func (c *Command) start() *cobra.Command {
	return c.power(systemd.Start, "Start VMs, and wait until they are ready")
}

func (c *Command) stop() *cobra.Command {
	return c.power(systemd.Stop, "Stop VMs cleanly, and wait until they are down")
}

func (c *Command) restart() *cobra.Command {
	return c.power(systemd.Restart, "Stop VMs and start them again with what is installed")
}

func (c *Command) power(job systemd.Job, short string) *cobra.Command {
	return &cobra.Command{
		Use:   string(job) + " NAME…",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			vms, errs, err := c.vms(args)
			if err != nil {
				return err
			}
			failed, err := c.jobs(ctx, job, vms)
			if err != nil {
				return err
			}
			return several(append(errs, failed...), len(vms)+len(errs))
		},
	}
}

// vms returns the VMs of names, each once, with an error for each that there is
// not. A name that is none is wrong usage.
func (c *Command) vms(names []string) (vms []statedir.VM, errs []error, err error) {
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		v, err := c.vm(name)
		var missing errNoVM
		switch {
		case errors.As(err, &missing):
			errs = append(errs, err)
		case err != nil:
			return nil, nil, err
		default:
			vms = append(vms, v)
		}
	}
	return vms, errs, nil
}

var (
	// did is what is said of a VM whose job is done.
	did = map[systemd.Job]string{systemd.Start: "is up", systemd.Stop: "is down", systemd.Restart: "is up again"}
	// didNot is what is said of one whose job is not.
	didNot = map[systemd.Job]string{systemd.Start: "did not start", systemd.Stop: "did not stop", systemd.Restart: "did not start again"}
)

// jobs does a job of each VM, all at once, and says of each how it went. It
// returns an error for each VM that failed.
func (c *Command) jobs(ctx context.Context, job systemd.Job, vms []statedir.VM) ([]error, error) {
	if len(vms) == 0 {
		return nil, nil
	}
	var failed []error
	names, byUnit := map[string]string{}, map[string]statedir.VM{}
	var units []string
	for _, v := range vms {
		if job != systemd.Stop && !v.Installed() {
			failed = append(failed, notInstalled(v))
			continue
		}
		names[unit.VM(v.Name)], byUnit[unit.VM(v.Name)] = v.Name, v
		units = append(units, unit.VM(v.Name))
	}
	began, asked := time.Now(), false
	if job != systemd.Stop && len(units) > 0 {
		defer c.sayWaits(ctx, slices.Sorted(maps.Values(names)))()
	}
	err := systemd.RunJobs(ctx, job, units, func(r systemd.Result) {
		asked = true
		if err := c.ended(ctx, job, byUnit[r.Unit], r, began); err != nil {
			failed = append(failed, err)
			return
		}
		term.Say(c.Stdout, names[r.Unit], "%s", did[job])
	})
	switch {
	case err != nil && ctx.Err() == nil:
		return nil, err
	case err != nil && !asked && len(units) > 0:
		return nil, fmt.Errorf("interrupted before systemd was asked; do it with: microvm %s %s", job, strings.Join(slices.Sorted(maps.Values(names)), " "))
	}
	return failed, nil
}

func notInstalled(v statedir.VM) error {
	return fmt.Errorf("%s has no runner, only data in %s; install it with: microvm create %s", v.Name, v.Dir(), v.Name)
}

func (c *Command) enable() *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME…",
		Short: "Make VMs start at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.eachVM(args, func(v statedir.VM) error {
				if !v.Installed() {
					return notInstalled(v)
				}
				return c.enableVM(cmd.Context(), v.Name)
			})
		},
	}
}

// enableVM enables the target of all VMs as well, without which enabling a VM
// has no effect.
func (c *Command) enableVM(ctx context.Context, name string) error {
	if err := systemd.Enable(ctx, []string{unit.Target, unit.VM(name)}); err != nil {
		return fmt.Errorf("%s will not start at boot: %w; run it with sudo, or on NixOS name it in microvm.autostart", name, err)
	}
	term.Say(c.Stdout, name, "starts at boot")
	return nil
}

func (c *Command) disable() *cobra.Command {
	return &cobra.Command{
		Use:   "disable NAME…",
		Short: "Stop starting VMs at boot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.eachVM(args, func(v statedir.VM) error {
				if err := systemd.Disable(cmd.Context(), []string{unit.VM(v.Name)}); err != nil {
					return fmt.Errorf("%s still starts at boot: %w; run it with sudo, or on NixOS take it from microvm.autostart", v.Name, err)
				}
				term.Say(c.Stdout, v.Name, "does not start at boot")
				return nil
			})
		},
	}
}

// eachVM does something with each VM of names, the next one whatever became of
// the one before.
func (c *Command) eachVM(names []string, do func(statedir.VM) error) error {
	vms, errs, err := c.vms(names)
	if err != nil {
		return err
	}
	total := len(vms) + len(errs)
	for _, v := range vms {
		errs = append(errs, do(v))
	}
	return several(errs, total)
}
