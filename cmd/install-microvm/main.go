// Command install-microvm installs a runner package for the next start of a VM. It is
// run by install-microvm-NAME.service on NixOS, and by users.
package main

import (
	"context"
	"os"

	"microvm/internal/programs"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

// Set by the build, see the Makefile.
var libexecDir = "/usr/lib/microvm"

func main() {
	host := statedir.HostFromEnv()
	host.LibexecDir = libexecDir
	host.SystemdVersion = systemd.Version
	os.Exit(programs.Install(context.Background(), os.Args[1:], host, systemd.Reload, os.Stdout, os.Stderr))
}
