package programs

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"microvm/internal/exit"
	"microvm/internal/process"
	"microvm/internal/statedir"
	"microvm/internal/stop"
)

// stopUnit is ExecStop= of the VM's unit: it ends the hypervisor, $MAINPID, within the
// unit's TimeoutStopSec=, if necessary by force.
func stopUnit(ctx context.Context, vm statedir.VM, logf exit.Logf) error {
	text := os.Getenv("MAINPID")
	if text == "" {
		return nil // there is no main process: it has exited already
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return exit.WithHint(fmt.Errorf("invalid MAINPID %q: must be the hypervisor's process ID", text),
			"this command is for microvm@.service; stop a VM with: microvm stop %s", vm.Name)
	}
	target, err := process.HoldInUnit(pid)
	if err != nil {
		return err
	}
	if target == nil {
		logf("the hypervisor, process %d, has already exited", pid)
		return nil
	}
	times := stopTimes(ctx, vm, logf)
	plan, pkg, err := running(vm)
	if err != nil {
		return err
	}
	return stop.Hypervisor(ctx, stop.Request{Process: target, Plan: plan, Package: pkg, Dir: vm.Dir(), Times: times, Logf: logf})
}
