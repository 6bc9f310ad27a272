package programs

import (
	"context"
	"io"
	"os"

	"microvm/internal/exit"
	"microvm/internal/notify"
	"microvm/internal/start"
	"microvm/internal/statedir"
	"microvm/internal/unit"
)

// wrapper is the program that the units of a VM and of its registration run.
var wrapper = unit.Main.Program

// verbs are what RunWrapper does for a VM, by the first argument. The last two are
// not in its usage: it runs itself with them.
var verbs = map[string]func(ctx context.Context, vm statedir.VM, logf exit.Logf) error{
	"run": func(_ context.Context, vm statedir.VM, logf exit.Logf) error {
		return start.Unit(vm, start.Options{Logf: logf, Notify: notify.Socket()})
	},
	"stop": stopUnit,
	"post": func(ctx context.Context, vm statedir.VM, logf exit.Logf) error {
		return post(ctx, vm, os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_STATUS"), logf)
	},
	"register":    register,
	settleCommand: settle,
	renewCommand:  renew,
}

// RunWrapper is microvm-run-wrapper: run becomes the hypervisor of a VM, stop asks
// its guest to go down, post cleans up, register registers it with
// systemd-machined. It is its own readiness child as well.
func RunWrapper(args []string, host statedir.Host, stderr io.Writer) int {
	usage := exit.Usagef("usage: %s run|stop|post|register NAME", wrapper)
	if len(args) != 2 {
		return exit.Report(stderr, wrapper, "", usage)
	}
	if args[0] == start.ChildCommand {
		return exit.Report(stderr, wrapper, "", start.AwaitReady(args[1], notify.Socket()))
	}
	vm, err := host.VM(args[1])
	if err != nil {
		return exit.Report(stderr, wrapper, "", exit.Config(err))
	}
	verb, known := verbs[args[0]]
	if !known {
		return exit.Report(stderr, wrapper, vm.Name, usage)
	}
	return exit.Report(stderr, wrapper, vm.Name, verb(context.Background(), vm, exit.Logger(stderr, wrapper)))
}
