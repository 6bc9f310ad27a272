package hypervisor

import (
	"slices"
	"strings"

	"microvm/internal/spec"
)

// withKVM means KVM if the host has it for guests of that architecture, and emulation
// otherwise: QEMU tries one after the other, and skips those that it was built without.
const withKVM = "kvm:tcg"

// accelerators returns the accelerators that QEMU tries, in the syntax of accel=. Empty
// means QEMU's default, which is emulation. The rule is microvm.nix's: a CPU model alone
// does not turn KVM off, but a CPU model with machine options does.
func accelerators(s *spec.Spec) string {
	if own := ownAccelerators(s.QEMU.ExtraArgs); own != "" {
		return own
	}
	if own, ok := s.QEMU.MachineOpts["accel"]; ok {
		return own
	}
	if s.QEMU.MachineOpts != nil && s.CPU != nil {
		return ""
	}
	return withKVM
}

// ownAccelerators returns the accelerators that extraArgs name. Of the machine's options
// the last one counts; each -accel is tried after those before it.
func ownAccelerators(args []string) string {
	var list []string
	machine := ""
	for i, arg := range args {
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		switch option(arg) {
		case "-accel":
			list = append(list, qemuOptions(value, "accel")["accel"])
		case "-machine", "-M":
			if own, ok := qemuOptions(value, "type")["accel"]; ok {
				machine = own
			}
		case "-enable-kvm":
			machine = "kvm"
		}
	}
	if len(list) > 0 {
		return strings.Join(list, ":")
	}
	return machine
}

// hasAccelOption reports whether extraArgs have -accel, which QEMU refuses together with
// accel= of a machine.
func hasAccelOption(s *spec.Spec) bool {
	return slices.ContainsFunc(s.QEMU.ExtraArgs, func(arg string) bool { return option(arg) == "-accel" })
}

func mayUseKVM(s *spec.Spec) bool {
	return slices.Contains(strings.Split(accelerators(s), ":"), "kvm")
}

// isHostCPU reports whether the CPU model is host, which QEMU supports only under KVM.
func isHostCPU(s *spec.Spec) bool {
	if s.CPU == nil {
		return false
	}
	model, _, _ := strings.Cut(*s.CPU, ",")
	return model == "host"
}

// refuseHostCPU refuses CPU model host if the spec has the guest emulated. Other models
// lose the features that need KVM, with a warning of QEMU.
func refuseHostCPU(s *spec.Spec) spec.Faults {
	if !isHostCPU(s) || mayUseKVM(s) {
		return nil
	}
	return spec.Faults{{Path: "cpu", Message: "\"host\" requires KVM, and this VM is emulated",
		Remedy: "leave cpu out, set it to \"max\", or set accel of qemu.machineOpts to \"kvm:tcg\""}}
}

// qemuKVM returns how much the VM depends on KVM.
func qemuKVM(s *spec.Spec) KVM {
	switch {
	case !mayUseKVM(s):
		return KVMUnused
	case isHostCPU(s), accelerators(s) == "kvm":
		return KVMRequired
	}
	return KVMWanted
}
