// Command microvm-tap-interfaces creates and removes the tap interfaces of a VM.
// It is run by microvm-tap-interfaces@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.Tap(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
