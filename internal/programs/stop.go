package programs

import (
	"context"
	"errors"
	"os"
	"strconv"

	"microvm/internal/exit"
	"microvm/internal/process"
	"microvm/internal/statedir"
	"microvm/internal/stop"
)

// stopUnit is the verb stop, ExecStop= of the unit, which names the hypervisor. Within
// the unit's TimeoutStopSec= it is gone, by force in the end.
func stopUnit(ctx context.Context, vm statedir.VM, logf exit.Logf) error {
	text := os.Getenv("MAINPID")
	if text == "" {
		return nil // systemd knows of no process: it is gone already
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return errors.New("MAINPID is " + text + ", which is no hypervisor's; this is run by microvm@.service")
	}
	target, err := process.HoldInUnit(pid)
	if err != nil {
		return err
	}
	if target == nil {
		logf("process %d, the hypervisor, is gone already", pid)
		return nil
	}
	times := stopTimes(ctx, vm, logf)
	plan, pkg, err := running(vm)
	if err != nil {
		return err
	}
	return stop.Hypervisor(ctx, stop.Request{Process: target, Plan: plan, Package: pkg, Dir: vm.Dir(), Times: times, Logf: logf})
}
