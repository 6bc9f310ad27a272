// Command microvm-macvtap-interfaces creates and removes the macvtap interfaces
// of a VM. It is run by microvm-macvtap-interfaces@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.Macvtap(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
