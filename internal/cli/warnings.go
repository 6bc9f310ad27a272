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

// absent returns the files that a plan needs and that do not exist on this host. The
// package does not depend on them, as it may be built for another host.
func absent(plan *hypervisor.Plan) []hypervisor.File {
	var out []hypervisor.File
	for _, f := range plan.Files {
		if _, err := os.Stat(f.Path); errors.Is(err, fs.ErrNotExist) {
			out = append(out, f)
		}
	}
	return out
}

// notesOf returns the warnings of absent files.
func notesOf(files []hypervisor.File) []string {
	var out []string
	for _, f := range files {
		out = append(out, fmt.Sprintf("warning: %s %s not found on this host", f.Role, f.Path))
	}
	return out
}

// portNotes returns warnings, with hints, of forwarded ports on which the hypervisors'
// user may not listen on this host. Another host may allow it.
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
			out = append(out,
				fmt.Sprintf("warning: forwardPorts: hypervisors may not listen on %s port %d of this host, only on %d and above", p.Proto, p.Port, first),
				fmt.Sprintf("hint: forward from a higher port, or run: sysctl net.ipv4.ip_unprivileged_port_start=%d", p.Port))
		}
	}
	return out
}
