package programs

import (
	"context"
	"errors"
	"strings"
	"time"

	"microvm/internal/exit"
	"microvm/internal/process"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// What microvm-run-wrapper leaves to another process of its own, outside of the VM's
// unit, because it changes that unit's state.

// startOver resets the count of a unit's restarts. That also resets the result of the
// run, which systemd logs when this process has ended; so after a failed run, a
// process outside of the unit does it.
func startOver(ctx context.Context, vm statedir.VM, result string) error {
	if result == "success" {
		return systemd.ResetFailed(ctx, unit.VM(vm.Name))
	}
	return systemd.RunApart(ctx, unit.Apart(wrapper, "settle", vm.Name), []string{process.Self(), settleCommand, vm.Name})
}

// renewCommand is the argument with which this program restarts a VM with its helpers,
// after a run that microvm.nix or an earlier version began.
const renewCommand = "renew"

// renew restarts vm with its helpers.
func renew(ctx context.Context, vm statedir.VM, _ exit.Logf) error {
	var failed error
	err := systemd.RunJobs(ctx, systemd.Restart, []string{unit.VM(vm.Name)}, func(r systemd.Result) { failed = r.Err })
	return errors.Join(err, failed)
}

// settleCommand is the argument with which this program resets a unit's count of
// restarts, once systemd has logged the result of its last run.
const settleCommand = "settle"

const (
	// settleTimeout is longer than systemd takes to end a unit whose processes have
	// exited.
	settleTimeout = 10 * time.Second
	settlePause   = 20 * time.Millisecond
)

// settle waits until the unit of vm has ended its last run, and resets the count of
// its restarts.
func settle(ctx context.Context, vm statedir.VM, _ exit.Logf) error {
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
