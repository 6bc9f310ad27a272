package cli

import (
	"fmt"

	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/kernel"
)

// newBuilder makes a compiler of specs that asks programs for their versions, each once: those that find finds.
func newBuilder(c *Command, find func(string) (string, error)) *hypervisor.Builder {
	versions := &foreign.Versions{Account: c.unprivileged(), Find: find, Slow: func(program string) {
		_, _ = fmt.Fprintf(c.Stderr, "microvm: asking %s for its version, for %s at most\n", program, foreign.VersionLimit)
	}}
	return &hypervisor.Builder{Version: versions.Of, GuestKernel: kernel.Version, Seccomp: versions.Seccomp}
}
