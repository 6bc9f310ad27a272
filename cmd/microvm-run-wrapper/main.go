// Command microvm-run-wrapper starts and stops the hypervisor of a VM. It is
// run by microvm@.service.
package main

import (
	"os"

	"microvm/internal/start"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(start.Command(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
