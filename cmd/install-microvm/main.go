// Command install-microvm puts a runner package in place for the next start of
// a VM. It is run by install-microvm-NAME.service on NixOS and by people.
package main

import (
	"context"
	"os"

	"microvm/internal/installer"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(installer.Run(context.Background(), os.Args[1:], statedir.HostFromEnv(), os.Stdout, os.Stderr))
}
