package hypervisor

import "microvm/internal/spec"

// maxKernelLine is COMMAND_LINE_SIZE less its NUL, of the x86 and the arm64 kernel
// (asm/setup.h): what is longer falls off the end, and with it the words that stand
// last, such as NixOS' init=. Some hypervisors refuse it themselves.
const maxKernelLine = 2047

// refuseLongLine refuses a command line of which the guest's kernel would not see
// the end, at its longest start.
func (b *Builder) refuseLongLine(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	line, err := backends[s.Hypervisor].kernelLine(b, s)
	if err != nil {
		return nil // what is wrong has a fault of its own
	}
	if n, err := kernelLineLength(line); err == nil && n > maxKernelLine {
		faults.Addf("kernelParams", "the kernel's command line has %d bytes with what %s needs; at most %d arrive, so shorten it", n, displayName(s.Hypervisor), maxKernelLine)
	}
	return faults
}
