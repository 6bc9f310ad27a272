package hypervisor

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/kernel"
	"microvm/internal/spec"
)

// controlOf returns the control interface on the spec's socket, or nil if that is null.
func controlOf(s *spec.Spec, method string) *Control {
	if s.Socket.Value == nil {
		return nil
	}
	return &Control{Method: method, Socket: *s.Socket.Value}
}

// VmlinuxFile is the path, in the package, of the ELF image that was extracted from a
// compressed kernel.
const VmlinuxFile = "share/microvm/vmlinux"

// elfKernel returns the kernel's path for a hypervisor that boots ELF images only: the
// spec's kernel, or the ELF image that the package will contain.
func elfKernel(s *spec.Spec, p *Plan) string {
	if s.Arch != "x86_64" || !kernel.IsCompressed(s.Kernel) {
		return Literal(s.Kernel)
	}
	p.Vmlinux = s.Kernel
	p.Files = slices.DeleteFunc(p.Files, func(f File) bool { return f.Role == "kernel" })
	p.Notes = append(p.Notes, s.Kernel+" is compressed, which "+displayName(s.Hypervisor)+" does not boot: the package contains its ELF image")
	return packageDir + "/" + VmlinuxFile
}

// serialConsole returns the kernel's argument for a console on the first serial port. On
// aarch64 that is a PL011, except for hypervisors with an 8250 (aarch64/src/fdt.rs of
// crosvm, src/vmm/src/arch/aarch64/fdt.rs of Firecracker, hw/serial.c of kvmtool).
func serialConsole(s *spec.Spec) string {
	if s.Arch == "aarch64" && !slices.Contains([]string{"crosvm", "firecracker", "kvmtool"}, s.Hypervisor) {
		return "console=ttyAMA0"
	}
	return "console=ttyS0"
}

// kernelCommandLine joins the hypervisor's own arguments, the credentials for readiness
// and shutdown, and the spec's parameters, which come last as the last one counts. The
// plan's readiness and shutdown must be set.
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

// notifyCredential tells a guest where to report readiness, for hypervisors without fw_cfg
// and SMBIOS strings, see systemd.set_credential= in systemd(1).
const notifyCredential = "systemd.set_credential=vmm.notify_socket:" + notifyAddress

// notifyAddress is the value of the credential vmm.notify_socket, systemd(1).
const notifyAddress = "vsock-stream:2:" + NotifyPort

// fixedSocket refuses a socket other than the default one for a hypervisor whose control
// socket cannot be chosen, for the reason why.
func fixedSocket(s *spec.Spec, why string) spec.Faults {
	if s.Socket.Value == nil || *s.Socket.Value == s.Name+".sock" {
		return nil
	}
	remedy := "leave the field out, or set it to null"
	if s.Balloon || s.Readiness == ReadyVMM { // which need it
		remedy = "leave the field out"
	}
	return spec.Faults{{Path: "socket", Message: fmt.Sprintf("%q cannot be the control socket: %s", *s.Socket.Value, why), Remedy: remedy}}
}

// noteMachineID adds a note that a hypervisor without SMBIOS does not pass the spec's UUID
// to the guest.
func noteMachineID(s *spec.Spec, p *Plan) {
	id := s.MachineID.Value
	if id != nil && *id != spec.DefaultMachineID(s.Name) {
		p.Notes = append(p.Notes, displayName(s.Hypervisor)+" has no SMBIOS tables: only systemd-machined uses machineId, and the guest does not see it")
	}
}
