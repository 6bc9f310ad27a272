package cli

import (
	"fmt"

	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/kernel"
)

// newBuilder returns a compiler of specs. It runs the hypervisors that find locates, to
// ask for their versions, each once.
func newBuilder(c *Command, find func(string) (string, error)) *hypervisor.Builder {
	versions := &foreign.Versions{Account: c.unprivileged(), Find: find, Slow: func(program string) {
		_, _ = fmt.Fprintf(c.Stderr, "microvm: waiting up to %s for the version of %s\n", foreign.VersionLimit, program)
	}}
	return &hypervisor.Builder{Version: versions.Of, GuestKernel: kernel.Version, Seccomp: versions.Seccomp}
}
