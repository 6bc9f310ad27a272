// Package control implements the control protocols of the hypervisors. A hypervisor may be
// hostile, so every read is bounded in size and time.
package control

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// Client is a connection to one hypervisor. Every call ends when its context does. The
// caller must close it.
type Client interface {
	// Running reports whether the guest's CPUs run.
	Running(ctx context.Context) (bool, error)
	// AwaitRunning returns nil once the guest's CPUs run. It returns an error if the
	// hypervisor does not answer or ctx ends.
	AwaitRunning(ctx context.Context) error
	// AwaitShutdown returns nil once the hypervisor reports that the guest shuts down
	// or reboots. For a hypervisor that does not report it, it returns when ctx ends.
	AwaitShutdown(ctx context.Context) error
	// CtrlAltDel presses Ctrl, Alt and Delete in the guest.
	CtrlAltDel(ctx context.Context) error
	// PowerButton presses the guest's power button.
	PowerButton(ctx context.Context) error
	// Memory returns the VM's memory, in MiB: what its guest has with an empty balloon.
	Memory(ctx context.Context) (int, error)
	// GuestMemory returns how much memory the balloon leaves the guest now, in MiB. It
	// returns ErrUntold if that is not known, and ErrGuestCounts with the guest's own
	// count.
	GuestMemory(ctx context.Context) (int, error)
	// SetGuestMemory sets the balloon to leave the guest that much of the VM's whole
	// memory, in MiB. The guest follows in its own time.
	SetGuestMemory(ctx context.Context, guest, whole int) error
	// Close ends the connection.
	Close() error
}

// Pauses between two calls of Running.
const (
	firstPause = time.Millisecond
	mostPause  = 100 * time.Millisecond
)

// pollRunning implements AwaitRunning for a hypervisor without an event for it.
func pollRunning(ctx context.Context, running func(context.Context) (bool, error)) error {
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		ok, err := running(ctx)
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the VM to run: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// silent implements AwaitShutdown for hypervisors that do not report a shutdown.
type silent struct{}

// AwaitShutdown implements Client.
func (silent) AwaitShutdown(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// errNoWay returns the error for what a hypervisor does not support.
func errNoWay(hypervisor, what string) error {
	return fmt.Errorf("%s cannot %s", hypervisor, what)
}

// otherProgram returns err, which an answer caused that no hypervisor gives, with a hint.
func otherProgram(err error) error {
	return exit.WithHint(err, "does another program listen on this socket?")
}

// known returns the VM's memory in its plan, for hypervisors that do not report it.
func known(memory int) (int, error) {
	if memory <= 0 {
		return 0, exit.WithHint(errors.New("the VM's package was built by an earlier version, which did not record its memory"),
			"build and install it again, and restart the VM")
	}
	return memory, nil
}

// Open connects to the control interface c of the VM whose state directory is dir. The
// socket is beneath dir, and links on the way are not followed: the VM's user could
// otherwise redirect root to the hypervisor of another VM.
func Open(ctx context.Context, c hypervisor.Control, dir string) (Client, error) {
	return OpenAs(ctx, c, dir, nil)
}

// OpenAs is Open for root: if the interface is a program, it is run as the given user.
func OpenAs(ctx context.Context, c hypervisor.Control, dir string, as *syscall.Credential) (Client, error) {
	program := command{program: c.Program, dir: dir, socket: c.Socket, as: as}
	switch c.Method {
	case "qmp":
		return DialQMP(ctx, dir, c.Socket)
	case "cloud-hypervisor":
		return &cloudHypervisor{api: newAPI(dir, c.Socket, "/api/v1/")}, nil
	case "firecracker":
		return &firecracker{api: newAPI(dir, c.Socket, "/")}, nil
	case "crosvm":
		return &crosvm{command: program, memory: c.Memory}, nil
	case "kvmtool":
		return dialKvmtool(ctx, dir, c)
	}
	return nil, exit.WithHint(fmt.Errorf("unknown control method %q", c.Method), "update microvm on this host")
}
