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

// wrapper is the program of a VM's unit, and of the unit that registers it.
var wrapper = unit.Main.Program

// verbs are the commands of RunWrapper. The last two are not in its usage: only the
// program itself runs them.
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

// RunWrapper is microvm-run-wrapper: run executes the hypervisor of a VM, stop stops
// it, post cleans up, and register registers it with systemd-machined. It is also its
// own readiness child. It returns the exit code.
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
