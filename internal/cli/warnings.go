package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"microvm/internal/hypervisor"
)

// absent are the files that a plan needs and that are not on this host. The
// package does not depend on them: it may be built for another one.
func absent(plan *hypervisor.Plan) []hypervisor.File {
	var out []hypervisor.File
	for _, f := range plan.Files {
		if _, err := os.Stat(f.Path); errors.Is(err, fs.ErrNotExist) {
			out = append(out, f)
		}
	}
	return out
}

func notesOf(files []hypervisor.File) []string {
	var out []string
	for _, f := range files {
		out = append(out, fmt.Sprintf("warning: %s: %s is not there; the VM starts only where it is", f.Role, f.Path))
	}
	return out
}

// portNotes warn of forwarded ports that the hypervisors' account may not listen on
// here. Another host may allow it.
func portNotes(plan *hypervisor.Plan) []string {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return nil
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range plan.HostPorts {
		if p.Port < first {
			out = append(out, fmt.Sprintf("warning: forwardPorts: %s port %d of the host: hypervisors may listen from %d on only; forward from a higher port, or set sysctl net.ipv4.ip_unprivileged_port_start=%d", p.Proto, p.Port, first, p.Port))
		}
	}
	return out
}
