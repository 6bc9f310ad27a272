package start

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// landlockABI is the version of the kernel's Landlock that Cloud Hypervisor asks
// for, of Linux 6.2; with an older one it does not start (vmm/src/landlock.rs).
const landlockABI = 3

// scopeABI is the version of Landlock that knows scopes, of Linux 6.12.
const scopeABI = 6

// scopeSignals keeps this thread, and what it executes, from sending signals to
// processes that it did not start: all VMs have one user, which would let one
// hypervisor end the others, and the program that is there to stop it. It does
// nothing where the kernel is older or where the unit may gain privileges, as
// QEMU's bridge helper wants; landlock(7).
func scopeSignals() error {
	if kernelLandlock() < scopeABI {
		return nil
	}
	if bound, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || bound == 0 {
		return nil
	}
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_SIGNAL}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("keep the hypervisor's signals to itself: make a Landlock ruleset: %w", errno)
	}
	defer func() { _ = unix.Close(int(fd)) }()
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("keep the hypervisor's signals to itself: enforce a Landlock ruleset: %w", errno)
	}
	return nil
}

// landlock are the plan's arguments for Landlock, where the kernel has that.
func landlock(plan *hypervisor.Plan, logf exit.Logf) []string {
	if len(plan.Landlock) == 0 {
		return nil
	}
	if have := kernelLandlock(); have < landlockABI {
		logf("the kernel has Landlock of version %d, and %s wants %d (Linux 6.2): it runs without", have, plan.Hypervisor, landlockABI)
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
	return int(version)
}
