package hypervisor

import "microvm/internal/spec"

// maxKernelLine is COMMAND_LINE_SIZE of x86 and arm64 kernels (asm/setup.h) without the
// NUL. The kernel truncates a longer command line and so loses its last arguments, such
// as init= of NixOS. Some hypervisors refuse it themselves.
const maxKernelLine = 2047

// refuseLongLine refuses a command line that is longer than maxKernelLine with the longest
// values of its placeholders.
func (b *Builder) refuseLongLine(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	line, err := backends[s.Hypervisor].kernelLine(b, s)
	if err != nil {
		return nil // reported by another fault
	}
	if n, err := kernelLineLength(line); err == nil && n > maxKernelLine {
		faults.Addf("kernelParams", "the kernel's command line must be at most %d bytes with the arguments for %s, not %d", maxKernelLine, displayName(s.Hypervisor), n)
	}
	return faults
}
