package start

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// landlockABI is the version of Landlock that Cloud Hypervisor requires
// (vmm/src/landlock.rs), that of Linux 6.2. With an older one it does not start.
const landlockABI = 3

// scopeABI is the first version of Landlock with scopes, that of Linux 6.12.
const scopeABI = 6

// scopeSignals keeps this thread, and what it executes, from sending signals to
// processes that it did not start, landlock(7). All VMs run as one user, so a
// hypervisor could otherwise end the others, and the program that stops it. It does
// nothing where the kernel is older, or where the unit may gain privileges, as
// QEMU's bridge helper requires.
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
		return fmt.Errorf("restrict the hypervisor's signals: create a Landlock ruleset: %w", errno)
	}
	defer func() { _ = unix.Close(int(fd)) }()
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("restrict the hypervisor's signals: enforce a Landlock ruleset: %w", errno)
	}
	return nil
}

// landlock returns the plan's arguments for Landlock, none where the kernel's is
// missing or too old.
func landlock(plan *hypervisor.Plan, logf exit.Logf) []string {
	if len(plan.Landlock) == 0 {
		return nil
	}
	if have := kernelLandlock(); have < landlockABI {
		logf("running %s without Landlock: the kernel has version %d of it, version %d (Linux 6.2) is required", plan.Hypervisor, have, landlockABI)
		return nil
	}
	return plan.Landlock
}

// kernelLandlock returns the version of the kernel's Landlock, 0 where it is missing
// or turned off: landlock_create_ruleset(2).
func kernelLandlock() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}
