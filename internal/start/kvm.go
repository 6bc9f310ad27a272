package start

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
)

// checkKVM tells an operator why a VM is slow, or would never boot.
func checkKVM(plan *hypervisor.Plan, logf exit.Logf) error {
	if plan.KVM == hypervisor.KVMUnused {
		return nil
	}
	if !kvm.Runs(plan.Arch) {
		if plan.KVM == hypervisor.KVMWanted {
			return nil // emulated, as everybody expects
		}
		return exit.WithHint(fmt.Errorf("this VM needs KVM, which on this host has no guests of architecture %s", plan.Arch), "%s", withoutKVM(plan))
	}
	err := usableKVM()
	if err == nil {
		return nil
	}
	const remedy = "load kvm_intel or kvm_amd and let group kvm read and write /dev/kvm"
	if plan.KVM == hypervisor.KVMRequired {
		return fmt.Errorf("%w; this VM needs it: %s, or %s", err, remedy, withoutKVM(plan))
	}
	logf("warning: %w; the guest is emulated, which is slow: %s", err, remedy)
	return nil
}

// withoutKVM is how a VM that needs KVM is made to do without.
func withoutKVM(plan *hypervisor.Plan) string {
	if plan.Hypervisor == "qemu" {
		return "set cpu in the spec to a model that QEMU emulates as well, such as max, and accel, if it is set, to kvm:tcg"
	}
	return "take hypervisor qemu, which can do without"
}

// usableKVM says why /dev/kvm cannot be used.
func usableKVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	return unix.Close(fd)
}
