package hypervisor

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/kernel"
	"microvm/internal/spec"
)

// controlOf is the control interface on the spec's socket; nil where that is null.
func controlOf(s *spec.Spec, method string) *Control {
	if s.Socket.Value == nil {
		return nil
	}
	return &Control{Method: method, Socket: *s.Socket.Value}
}

// VmlinuxFile is the path, in the package, of an ELF kernel taken out of a
// compressed one.
const VmlinuxFile = "share/microvm/vmlinux"

// elfKernel is the kernel for a hypervisor that starts ELF images only: the
// spec's, or what the package will hold in its place.
func elfKernel(s *spec.Spec, p *Plan) string {
	if s.Arch != "x86_64" || !kernel.IsCompressed(s.Kernel) {
		return Literal(s.Kernel)
	}
	p.Vmlinux = s.Kernel
	p.Files = slices.DeleteFunc(p.Files, func(f File) bool { return f.Role == "kernel" })
	p.Notes = append(p.Notes, s.Kernel+" is compressed, and "+s.Hypervisor+" does not start that: the package holds its ELF image")
	return Package + "/" + VmlinuxFile
}

// serialConsole is the kernel's console on the first serial port: a PL011 on
// aarch64, but for those that have an 8250 there as well (aarch64/src/fdt.rs of
// crosvm, src/vmm/src/arch/aarch64/fdt.rs of Firecracker, kvmtool's hw/serial.c).
func serialConsole(s *spec.Spec) string {
	if s.Arch == "aarch64" && !slices.Contains([]string{"crosvm", "firecracker", "kvmtool"}, s.Hypervisor) {
		return "console=ttyAMA0"
	}
	return "console=ttyS0"
}

// kernelCommandLine joins what the hypervisor needs, where the guest reports
// readiness if it has to be told here, whom it lets in to shut it down, and the
// spec's parameters: last, for the last one counts. The plan's readiness and
// shutdown have to be known.
func kernelCommandLine(s *spec.Spec, p *Plan, own ...string) string {
	words := append([]string{}, own...)
	if p.Readiness.Mode == ReadyGuest {
		words = append(words, notifyCredential)
	}
	words = append(words, shutdownWords(p)...)
	for _, param := range s.KernelParams {
		words = append(words, Literal(param))
	}
	return strings.Join(words, " ")
}

// notifyCredential tells a guest where to report readiness, for hypervisors that
// have neither fw_cfg nor SMBIOS strings: systemd(1), systemd.set_credential=.
const notifyCredential = "systemd.set_credential=vmm.notify_socket:" + notifyAddress

// notifyAddress is the value of the credential vmm.notify_socket, systemd(1).
const notifyAddress = "vsock-stream:2:" + NotifyPort

// fixedSocket refuses a socket of the spec's own choice where the hypervisor
// cannot follow it.
func fixedSocket(s *spec.Spec, why string) spec.Faults {
	if s.Socket.Value == nil || *s.Socket.Value == s.Name+".sock" {
		return nil
	}
	remedy := "leave the field out, or set it to null"
	if s.Balloon || s.Readiness == ReadyVMM { // which need it
		remedy = "leave the field out"
	}
	return spec.Faults{{Path: "socket", Message: fmt.Sprintf("%q cannot be the control socket: %s; %s", *s.Socket.Value, why, remedy)}}
}

// noteMachineID tells where a UUID goes that the guest cannot be given: there is
// no SMBIOS.
func noteMachineID(s *spec.Spec, p *Plan) {
	id := s.MachineID.Value
	if id != nil && *id != spec.DefaultMachineID(s.Name) {
		p.Notes = append(p.Notes, s.Hypervisor+" has no SMBIOS tables: its guest does not see machineId, only systemd-machined does")
	}
}
