// Command microvm-run-wrapper starts and stops the hypervisor of a VM. It is
// run by microvm@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.RunWrapper(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
