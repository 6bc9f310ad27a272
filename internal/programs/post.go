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

// goodRun is how long a VM has to have been up for its next restart to count
// as the first again.
const goodRun = 10 * time.Second

// post cleans up after a run of vm, as root, when its hypervisor is gone.
// result is $SERVICE_RESULT and status $EXIT_STATUS, systemd.exec(5).
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
		// What the run made stays, and whoever asks why finds it here.
		logf("nothing is removed: %v", err)
	}
	run, err := systemd.LastRun(ctx, unit.VM(vm.Name), unit.SetBooted.Of(vm.Name))
	if err != nil {
		return errors.Join(errs, err)
	}
	if text := neverReady(run, mode, result); text != "" {
		logf("%s", text)
		if result == "timeout" {
			logf("hint: raise TimeoutStartSec= of its unit for a guest that takes longer; for one that does not report, set readiness to %q in its spec", hypervisor.ReadyVMM)
		}
	}
	final := run.Stopping || status == fmt.Sprint(exit.CodeConfig)
	if final && !run.Pinned {
		errs = errors.Join(errs, vm.ClearBooted())
	}
	// Where it is not tried again, the service manager ends the job itself.
	if !run.Ready && run.StartJob != 0 && run.TriedAgain(result, status) {
		// Recorded first: who waits for the job reads it when the job is gone.
		attempt := statedir.Attempt{Job: run.StartJob, Result: result, Status: status, Helper: failedHelper(ctx, vm)}
		errs = errors.Join(errs, vm.WriteAttempt(attempt), systemd.CancelJob(ctx, run.StartJob))
	}
	if run.TriedAgain(result, status) && vm.StartedByAnother() {
		// What its helpers made has no record, and no start goes by that.
		return errors.Join(errs, systemd.RunApart(ctx, unit.Apart(wrapper, "renew", vm.Name), []string{process.Self(), renewCommand, vm.Name}))
	}
	if !run.Stopping && run.Ready && run.Uptime >= goodRun && result != "" {
		errs = errors.Join(errs, startOver(ctx, vm, result))
	}
	return errs
}

// failedHelper is the unit of a helper of vm that has failed, which is why the
// attempt did. It is started anew with the next one.
func failedHelper(ctx context.Context, vm statedir.VM) string {
	units, err := systemd.ListUnits(ctx, unit.HelpersOf(vm.Name))
	if err != nil {
		return "" // the VM's own unit says as much
	}
	for _, u := range units {
		if u.Active == "failed" {
			return u.Name
		}
	}
	return ""
}

// neverReady says how far a run got that ended before it was ready. The
// readiness child cannot say that: the service manager kills it as soon as the
// hypervisor is gone. It is empty where the hypervisor itself is to say.
func neverReady(run systemd.Run, mode, result string) string {
	if run.Ready || run.Stopping || run.Status == "" && result != "timeout" {
		return ""
	}
	text := "the hypervisor ended before the VM was ready"
	if result == "timeout" {
		text = "the VM was not ready within the time that its unit gives, TimeoutStartSec="
	}
	switch {
	case run.Status != "":
		text += fmt.Sprintf("; its last report was %q", run.Status)
	case mode == hypervisor.ReadyGuest:
		text += "; its guest has not reported anything"
	case mode == hypervisor.ReadyVMM:
		text += "; its control socket did not say that it runs"
	}
	return text
}
