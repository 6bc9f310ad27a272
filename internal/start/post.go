package start

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// goodRun is how long a VM has to have been up for its next restart to count
// as the first again.
const goodRun = 10 * time.Second

// Post cleans up after a run of vm, as root, when its hypervisor is gone.
// result is $SERVICE_RESULT and status $EXIT_STATUS, systemd.exec(5).
func (l *Launcher) Post(ctx context.Context, vm statedir.VM, result, status string) error {
	if !vm.Exists() {
		return nil
	}
	var errs error
	mode := ""
	if p, err := vm.Booted(); err == nil {
		if plan, err := p.Plan(); err == nil {
			errs = CleanUp(vm.Dir(), plan)
			mode = plan.Readiness.Mode
			if plan.Machined != nil {
				errs = errors.Join(errs, systemd.Unregister(ctx, vm.Name))
			}
		}
		_ = p.Close()
	}
	run, err := systemd.LastRun(ctx, unit.VM(vm.Name), unit.SetBooted.Of(vm.Name))
	if err != nil {
		return errors.Join(errs, err)
	}
	if text := neverReady(run, mode, result); text != "" {
		l.logf("%s", text)
		if result == "timeout" {
			l.logf("hint: raise TimeoutStartSec= of its unit for a guest that takes longer; for one that does not report, set readiness to %q in its spec", hypervisor.ReadyVMM)
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
		return errors.Join(errs, systemd.RunApart(ctx, unit.Apart(program, "renew", vm.Name), []string{ourselves(), renewCommand, vm.Name}))
	}
	if !run.Stopping && run.Ready && run.Uptime >= goodRun && result != "" {
		errs = errors.Join(errs, l.startOver(ctx, vm, result))
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

// startOver starts the count of a unit's restarts over. That resets the result of
// the run as well, which systemd logs when this process has ended; so for a run that
// failed it is left to a process outside of the unit.
func (l *Launcher) startOver(ctx context.Context, vm statedir.VM, result string) error {
	if result == "success" {
		return systemd.ResetFailed(ctx, unit.VM(vm.Name))
	}
	return systemd.RunApart(ctx, unit.Apart(program, "settle", vm.Name), []string{ourselves(), settleCommand, vm.Name})
}

// renewCommand is the word by which this program restarts a VM with its helpers,
// after a run that microvm.nix or an earlier version began.
const renewCommand = "renew"

func renew(ctx context.Context, vm statedir.VM) error {
	var failed error
	err := systemd.RunJobs(ctx, systemd.Restart, []string{unit.VM(vm.Name)}, func(r systemd.Result) { failed = r.Err })
	return errors.Join(err, failed)
}

// settleCommand is the word by which this program starts a unit's count of restarts
// over, once systemd has logged how its last run ended.
const settleCommand = "settle"

const (
	// settleTimeout is longer than systemd takes to end a unit whose processes are
	// gone.
	settleTimeout = 10 * time.Second
	settlePause   = 20 * time.Millisecond
)

// settle waits until the unit of vm has ended its last run, and starts the count of
// its restarts over.
func settle(ctx context.Context, vm statedir.VM) error {
	name := unit.VM(vm.Name)
	for deadline := time.Now().Add(settleTimeout); time.Now().Before(deadline); time.Sleep(settlePause) {
		units, err := systemd.ListUnits(ctx, name)
		if err != nil {
			return err
		}
		if len(units) == 0 || !strings.HasPrefix(units[0].Sub, "stop") && !strings.HasPrefix(units[0].Sub, "final") {
			break
		}
	}
	return systemd.ResetFailed(ctx, name)
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

// CleanUp removes from dir, the state directory, what a run of plan left that is
// over: sockets, the key of a shutdown, what else its hypervisor makes and does not
// take away, and what was written for it. Whatever else lies there stays.
func CleanUp(dir string, plan *hypervisor.Plan) error {
	sockets, files := slices.Clone(plan.StaleSockets), slices.Clone(plan.StaleFiles)
	if plan.Readiness.VsockSocket != "" {
		sockets = append(sockets, muxPath(plan.Readiness.VsockSocket, muxPort))
	}
	if ssh := plan.Shutdown.SSH; ssh != nil {
		files = append(files, ssh.Key, ssh.Key+".new")
	}
	for _, g := range plan.Generated {
		files = append(files, g.Path)
	}
	return errors.Join(
		removeSockets(dir, sockets),
		removeFiles(dir, unix.S_IFREG, files),
		removeFiles(dir, unix.S_IFDIR, plan.StaleDirs),
	)
}
