// Command microvm-set-booted pins and unpins the runner package that a start of a VM
// uses. It is run by microvm-set-booted@.service.
package main

import (
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(programs.SetBooted(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
