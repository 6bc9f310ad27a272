package start

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/notify"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

const (
	program = "microvm-run-wrapper"
	usage   = "usage: microvm-run-wrapper run|stop|post|register NAME"
)

// Command is microvm-run-wrapper: run becomes the hypervisor of a VM, stop asks
// its guest to go down, post cleans up, register registers it with
// systemd-machined. The words by which this program runs itself are not in the
// usage.
func Command(args []string, host statedir.Host, stderr io.Writer) int {
	if len(args) != 2 {
		return exit.Report(stderr, program, "", exit.Usage(errors.New(usage)))
	}
	if args[0] == ChildCommand {
		return exit.Report(stderr, program, "", AwaitReady(args[1], notify.Socket()))
	}
	vm, err := host.VM(args[1])
	if err != nil {
		return exit.Report(stderr, program, "", exit.Config(err))
	}
	l := &Launcher{Stderr: stderr, Notify: notify.Socket()}
	ctx := context.Background()
	switch args[0] {
	case "run":
		err = l.Start(vm)
	case "stop":
		err = l.stopUnit(ctx, vm)
	case "post":
		err = l.Post(ctx, vm, os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_STATUS"))
	case settleCommand:
		err = settle(ctx, vm)
	case renewCommand:
		err = renew(ctx, vm)
	case "register":
		err = l.Register(ctx, vm)
	default:
		err = exit.Usage(errors.New(usage))
	}
	return exit.Report(stderr, program, vm.Name, err)
}

// stopUnit is stop as ExecStop= of the unit, which names the hypervisor. Within
// the unit's TimeoutStopSec= it is gone, by force in the end.
func (l *Launcher) stopUnit(ctx context.Context, vm statedir.VM) error {
	text := os.Getenv("MAINPID")
	if text == "" {
		return nil // systemd knows of no process: it is gone already
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return errors.New("MAINPID is " + text + ", which is no hypervisor's; this is run by microvm@.service")
	}
	// Held before it is looked at, so that it is what was looked at.
	target, err := HoldProcess(pid)
	if err != nil {
		return err
	}
	if target == nil || !sameUnit(pid) || !target.there() {
		l.logf("process %d, the hypervisor, is gone already", pid)
		return nil
	}
	return l.Stop(ctx, vm, target, l.stopTimes(ctx, vm))
}

// askManager is how long systemd may take to say what its unit's time is: it
// answers in a millisecond, and a stop that waits for it comes too late.
const askManager = time.Second

// stopTimes divides MICROVM_STOP_TIMEOUT seconds, or else the unit's
// TimeoutStopSec=, or where systemd cannot be asked, as in a jail, the default.
func (l *Launcher) stopTimes(ctx context.Context, vm statedir.VM) Stop {
	if s, err := strconv.Atoi(os.Getenv("MICROVM_STOP_TIMEOUT")); err == nil && s > 0 {
		return stopWithin(time.Duration(s) * time.Second)
	}
	limit, err := bounded(ctx, askManager, func(ctx context.Context) (time.Duration, error) {
		return systemd.StopTimeout(ctx, unit.VM(vm.Name))
	})
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // a jail has no bus
			l.logf("%w; the guest gets what TimeoutStopSec=90 leaves it", err)
		}
		return DefaultStop
	}
	return stopWithin(limit)
}

// bounded calls ask, and waits for it no longer than limit, whatever it waits
// for itself.
func bounded[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := ask(ctx)
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("systemd did not answer within %s: %w", limit, ctx.Err())
	}
}

// sameUnit says whether a process is of the unit that this one is of. Its
// number may mean another since the service manager told it to us.
func sameUnit(pid int) bool {
	// A unit with Delegate= has its control processes in a group of their own.
	const control = "/.control"
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return true
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	return bytes.Equal(bytes.ReplaceAll(ours, []byte(control), nil), theirs)
}
