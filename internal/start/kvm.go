package start

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
)

// checkKVM returns an error if the VM needs KVM and cannot use it, and logs a warning
// if the VM is slow without it.
func checkKVM(plan *hypervisor.Plan, logf exit.Logf) error {
	if plan.KVM == hypervisor.KVMUnused {
		return nil
	}
	if !kvm.Runs(plan.Arch) {
		if plan.KVM == hypervisor.KVMWanted {
			return nil // emulated, as is to be expected
		}
		return exit.WithHint(fmt.Errorf("this VM needs KVM, which does not support architecture %s on this host", plan.Arch), "%s", withoutKVM(plan))
	}
	err := usableKVM()
	if err == nil {
		return nil
	}
	const remedy = "load kvm_intel or kvm_amd and let group kvm read and write /dev/kvm"
	if plan.KVM == hypervisor.KVMRequired {
		return exit.WithHint(exit.WithHint(fmt.Errorf("this VM needs KVM: %w", err), "%s", remedy), "or %s", withoutKVM(plan))
	}
	logf("%w", exit.WithHint(fmt.Errorf("warning: the guest is emulated, which is slow: %w", err), "%s", remedy))
	return nil
}

// withoutKVM returns the hint on how a VM that needs KVM can run without it.
func withoutKVM(plan *hypervisor.Plan) string {
	if plan.Hypervisor == "qemu" {
		return "set cpu in the spec to a model that QEMU emulates as well, such as max, and accel, if it is set, to kvm:tcg"
	}
	return "use hypervisor qemu, which can run without KVM"
}

// usableKVM returns an error if /dev/kvm cannot be opened.
func usableKVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	return unix.Close(fd)
}
