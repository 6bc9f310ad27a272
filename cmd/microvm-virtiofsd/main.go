// Command microvm-virtiofsd serves the virtiofs shares of a VM.
// It is run by microvm-virtiofsd@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.Virtiofsd(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
