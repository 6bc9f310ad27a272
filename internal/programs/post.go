package programs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/process"
	"microvm/internal/start"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// goodRun is the uptime after which a VM's next restart counts as the first again.
const goodRun = 10 * time.Second

// post cleans up after a run of vm, as root, when its hypervisor has exited. result is
// $SERVICE_RESULT and status $EXIT_STATUS, systemd.exec(5).
func post(ctx context.Context, vm statedir.VM, result, status string, logf exit.Logf) error {
	if !vm.Exists() {
		return nil
	}
	var errs error
	mode := ""
	if p, err := vm.Booted(); err == nil {
		if plan, err := p.Plan(); err == nil {
			errs = start.CleanUp(vm.Dir(), plan)
			mode = plan.Readiness.Mode
			if plan.Machined != nil {
				errs = errors.Join(errs, systemd.Unregister(ctx, vm.Name))
			}
		}
		_ = p.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		logf("not cleaning up after the run: %w", err)
	}
	run, err := systemd.LastRun(ctx, unit.VM(vm.Name), unit.SetBooted.Of(vm.Name))
	if err != nil {
		return errors.Join(errs, err)
	}
	if text := neverReady(run, mode, result); text != "" {
		err := errors.New(text)
		if result == "timeout" {
			err = exit.WithHint(exit.WithHint(err, "if the guest needs longer, raise TimeoutStartSec= of its unit"),
				"if the guest does not report, set readiness to %q in the spec", hypervisor.ReadyVMM)
		}
		logf("%w", err)
	}
	final := run.Stopping || status == fmt.Sprint(exit.CodeConfig)
	if final && !run.Pinned {
		errs = errors.Join(errs, vm.ClearBooted())
	}
	// If there is no further attempt, the service manager ends the job itself.
	if !run.Ready && run.StartJob != 0 && run.TriedAgain(result, status) {
		// Recorded first: who waits for the job reads the record when the job has ended.
		attempt := statedir.Attempt{Job: run.StartJob, Result: result, Status: status, Helper: failedHelper(ctx, vm)}
		errs = errors.Join(errs, vm.WriteAttempt(attempt), systemd.CancelJob(ctx, run.StartJob))
	}
	if run.TriedAgain(result, status) && vm.StartedByAnother() {
		// The helpers of microvm.nix left no records, which a start needs.
		return errors.Join(errs, systemd.RunApart(ctx, unit.Apart(wrapper, "renew", vm.Name), []string{process.Self(), renewCommand, vm.Name}))
	}
	if !run.Stopping && run.Ready && run.Uptime >= goodRun && result != "" {
		errs = errors.Join(errs, startOver(ctx, vm, result))
	}
	return errs
}

// failedHelper returns the unit of a helper of vm whose failure made the attempt fail,
// or "". The next attempt starts it again.
func failedHelper(ctx context.Context, vm statedir.VM) string {
	units, err := systemd.ListUnits(ctx, unit.HelpersOf(vm.Name))
	if err != nil {
		return "" // the VM's own unit has logged the failure as well
	}
	for _, u := range units {
		if u.Active == "failed" {
			return u.Name
		}
	}
	return ""
}

// neverReady returns how far a run got that ended before the VM was ready; "" for other
// runs, and where the hypervisor's own messages explain it. The readiness child cannot
// log that: the service manager kills it as soon as the hypervisor exits.
func neverReady(run systemd.Run, mode, result string) string {
	if run.Ready || run.Stopping || run.Status == "" && result != "timeout" {
		return ""
	}
	text := "the hypervisor exited before the VM was ready"
	if result == "timeout" {
		text = "the VM was not ready within TimeoutStartSec= of its unit"
	}
	switch {
	case run.Status != "":
		text += fmt.Sprintf("; its last report was %q", run.Status)
	case mode == hypervisor.ReadyGuest:
		text += "; its guest did not report anything"
	case mode == hypervisor.ReadyVMM:
		text += "; its hypervisor did not report that it runs"
	}
	return text
}
