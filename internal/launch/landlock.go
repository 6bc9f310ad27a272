package launch

import (
	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// landlockABI is the version of the kernel's Landlock that Cloud Hypervisor asks
// for, of Linux 6.2; with an older one it does not start (vmm/src/landlock.rs).
const landlockABI = 3

// landlock are the plan's arguments for Landlock, where the kernel has that.
func (l *Launcher) landlock(plan *hypervisor.Plan) []string {
	if len(plan.Landlock) == 0 {
		return nil
	}
	if have := kernelLandlock(); have < landlockABI {
		l.logf("the kernel has Landlock of version %d, and %s wants %d (Linux 6.2): it runs without", have, plan.Hypervisor, landlockABI)
		return nil
	}
	return plan.Landlock
}

// kernelLandlock is the version of the kernel's Landlock, 0 where it has none or
// where that is turned off: landlock_create_ruleset(2).
func kernelLandlock() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version) //nolint:gosec // a small number
}
