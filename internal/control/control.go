// Package control speaks the control protocols of the hypervisors. The other
// side is the hypervisor, which may be hostile: every read is bounded in size
// and time.
package control

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// Client is a connection to one hypervisor. Every call is bounded by its
// context.
type Client interface {
	// Running says whether the guest's CPUs run.
	Running(ctx context.Context) (bool, error)
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
		return &cloudHypervisor{newAPI(dir, c.Socket, "/api/v1/")}, nil
	case "firecracker":
		return &firecracker{newAPI(dir, c.Socket, "/")}, nil
	case "crosvm":
		return &crosvm{program, c.Memory}, nil
	case "kvmtool":
		return dialKvmtool(ctx, dir, c)
	}
	return nil, fmt.Errorf("control method %q is not known; update microvm on this host", c.Method)
}
