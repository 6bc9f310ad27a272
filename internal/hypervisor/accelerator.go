package hypervisor

import (
	"slices"
	"strings"

	"microvm/internal/spec"
)

// withKVM is KVM where the host has it for guests of that architecture, and
// emulation elsewhere: QEMU tries one after the other, and passes over those that
// it was built without.
const withKVM = "kvm:tcg"

// accelerators is what QEMU tries to run the guest by, in its own words. Empty is
// QEMU's default, which is emulation. microvm.nix has the same: a CPU model is no
// reason to emulate, and machine options leave KVM on unless they are for a model.
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

// ownAccelerators is what more arguments ask for; the last option of the machine
// counts, and each -accel is tried after those before.
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

// hasAccelOption says that there is an -accel, which QEMU takes beside no accel= of
// a machine.
func hasAccelOption(s *spec.Spec) bool {
	return slices.ContainsFunc(s.QEMU.ExtraArgs, func(arg string) bool { return option(arg) == "-accel" })
}

func mayUseKVM(s *spec.Spec) bool {
	return slices.Contains(strings.Split(accelerators(s), ":"), "kvm")
}

// isHostCPU says that the CPU is the host's own, which QEMU has under KVM alone.
func isHostCPU(s *spec.Spec) bool {
	if s.CPU == nil {
		return false
	}
	model, _, _ := strings.Cut(*s.CPU, ",")
	return model == "host"
}

// refuseHostCPU refuses the one model that is KVM's own where the guest is emulated
// by the spec's own choice. Features that KVM alone has are left out with a warning.
func refuseHostCPU(s *spec.Spec) spec.Faults {
	if !isHostCPU(s) || mayUseKVM(s) {
		return nil
	}
	return spec.Faults{{Path: "cpu", Message: "\"host\" is the host's own CPU, which KVM alone has, and this VM is emulated\nhint: leave cpu out, write \"max\" for all that can be emulated, or set accel of qemu.machineOpts to \"kvm:tcg\""}}
}

// qemuKVM is what a host without KVM means.
func qemuKVM(s *spec.Spec) KVM {
	switch {
	case !mayUseKVM(s):
		return KVMUnused
	case isHostCPU(s), accelerators(s) == "kvm":
		return KVMRequired
	}
	return KVMWanted
}
