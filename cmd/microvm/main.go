// Command microvm builds, runs and manages microVMs.
package main

import (
	"os"

	"microvm/internal/cli"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

// These are set by the linker, see the Makefile.
var (
	version    = "dev"
	libexecDir = "/usr/lib/microvm"
	binDir     = "/usr/bin"
)

func main() {
	host := statedir.HostFromEnv()
	host.LibexecDir = libexecDir
	host.SystemdVersion = systemd.Version
	c := &cli.Command{
		Host: host, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		BinDir: binDir, Version: version,
	}
	os.Exit(c.Run(os.Args[1:]))
}
