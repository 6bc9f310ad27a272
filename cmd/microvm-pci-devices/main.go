// Command microvm-pci-devices takes the PCI devices of a VM from the host and
// gives them back. It is run by microvm-pci-devices@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.PCI(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
