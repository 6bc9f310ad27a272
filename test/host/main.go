// Command host boots a test host, a Debian root with a real systemd, lays a
// payload over it and runs a command inside as root:
//
//	host root                         only make the root, and print where it is
//	host guest                        only build the Debian guest of the VM host
//	host assets PAYLOAD               add the test guest's kernel and initramfs
//	host container PAYLOAD COMMAND …  under systemd-nspawn: seconds
//	host vm PAYLOAD COMMAND …         in QEMU, with a kernel of its own
//
// PAYLOAD is a directory that is copied over the root; the test guest is in its
// /usr/lib/microvm-test. Output and exit code
// are the command's. What is downloaded stays in the user's cache directory.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

// The children die with the thread that started them (PR_SET_PDEATHSIG), which
// therefore has to be one that stays.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	code, err := host(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "host: %v\n", err)
		code = 1
	}
	stop()
	os.Exit(code)
}

func host(ctx context.Context, args []string) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("test hosts need root\nhint: run it with sudo")
	}
	if len(args) == 1 && args[0] == "guest" {
		_, err := debianGuest()
		return 0, err
	}
	r, err := ensureRoot()
	if err != nil {
		return 0, err
	}
	if len(args) == 1 && args[0] == "root" {
		fmt.Println(r.tree)
		return 0, nil
	}
	if len(args) == 2 && args[0] == "assets" {
		return 0, r.assets(filepath.Join(args[1], "usr/lib/microvm-test"))
	}
	if len(args) < 3 {
		return 0, errors.New("usage: host root | host guest | host assets PAYLOAD | host container|vm PAYLOAD COMMAND …")
	}
	switch args[0] {
	case "container":
		return inContainer(ctx, r, args[1], args[2:])
	case "vm":
		return inVM(ctx, r, args[1], args[2:])
	}
	return 0, fmt.Errorf("unknown host %q: must be container or vm", args[0])
}
