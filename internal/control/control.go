// Package control speaks the control protocols of the hypervisors. The other
// side is the hypervisor, which may be hostile: every read is bounded in size
// and time.
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

// Client is a connection to one hypervisor. Every call is bounded by its
// context.
type Client interface {
	// Running reports whether the guest's CPUs run.
	Running(ctx context.Context) (bool, error)
	// AwaitRunning returns nil once the guest's CPUs run, and an error when the
	// hypervisor gives none of its answers or ctx ends.
	AwaitRunning(ctx context.Context) error
	// AwaitShutdown returns nil once the hypervisor reports that the guest shuts down
	// or reboots. One that reports nothing is waited for until ctx ends.
	AwaitShutdown(ctx context.Context) error
	// CtrlAltDel presses these keys in the guest.
	CtrlAltDel(ctx context.Context) error
	// PowerButton presses the guest's power button.
	PowerButton(ctx context.Context) error
	// Memory is the VM's, in MiB: what its guest has with an empty balloon.
	Memory(ctx context.Context) (int, error)
	// GuestMemory is what the balloon leaves the guest now, in MiB. With ErrUntold
	// nobody knows; with ErrGuestCounts it is the guest's own count.
	GuestMemory(ctx context.Context) (int, error)
	// SetGuestMemory has the balloon leave the guest so much of the VM's whole
	// memory, which the guest follows in its own time.
	SetGuestMemory(ctx context.Context, guest, whole int) error
	// Close ends the connection.
	Close() error
}

// Pauses between two questions whether the VM runs.
const (
	firstPause = time.Millisecond
	mostPause  = 100 * time.Millisecond
)

// pollRunning is AwaitRunning for a hypervisor that has no event for it.
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

// silent is part of every client whose hypervisor does not report a shutdown.
type silent struct{}

// AwaitShutdown implements Client.
func (silent) AwaitShutdown(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// errNoWay is for what a hypervisor has no call for.
func errNoWay(hypervisor, what string) error {
	return fmt.Errorf("%s cannot %s", hypervisor, what)
}

// known is the VM's memory for hypervisors that do not tell it.
func known(memory int) (int, error) {
	if memory <= 0 {
		return 0, exit.WithHint(errors.New("the VM's package was built by an earlier version and does not say how much memory it has"),
			"build and install it again, and restart the VM")
	}
	return memory, nil
}

// Open connects to the control interface c of the VM whose state directory is
// dir. Its socket is beneath that, and no link on the way is followed: the VM's
// user could lead root's words to a neighbour's hypervisor.
func Open(ctx context.Context, c hypervisor.Control, dir string) (Client, error) {
	return OpenAs(ctx, c, dir, nil)
}

// OpenAs is Open for root: where the interface is a program, it runs as the
// given user.
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
	return nil, fmt.Errorf("control method %q is not known; update microvm on this host", c.Method)
}
