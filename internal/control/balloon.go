package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"microvm/internal/exit"
)

// Sizes of a guest's memory are in MiB, and parts of the VM's memory: with an empty balloon
// the guest has all of it, including what its kernel reserves.

// ErrUntold means that the hypervisor cannot report the size that a balloon has reached.
var ErrUntold = errors.New("the hypervisor cannot report the size of the balloon, so this is the size that was set")

// ErrGuestCounts means that a size is the guest's own count.
var ErrGuestCounts = errors.New("this is the guest's own count, without the memory that its kernel reserves")

const (
	// LeastGuest is the minimum that a balloon leaves a guest. No kernel with the driver
	// runs in less; a smaller number is probably meant in another unit.
	LeastGuest = 16
	// balloonPoll is the interval at which a balloon's size is read.
	balloonPoll = 200 * time.Millisecond
	// balloonSettles is the time without a change after which a balloon has settled.
	balloonSettles = 3 * time.Second
)

// Balloon sets how much memory the VM's balloon leaves its guest, unless guest is 0. It
// returns how much the guest has when that is reached, when it no longer changes, or when
// ctx ends: a guest that frees nothing is not an error. With ErrUntold it returns the size
// that was set, and with ErrGuestCounts the guest's own count.
func Balloon(ctx context.Context, c Client, guest int) (int, error) {
	if guest == 0 {
		return c.GuestMemory(ctx)
	}
	whole, err := c.Memory(ctx)
	if err != nil {
		return 0, err
	}
	if err := inBounds(guest, whole); err != nil {
		return 0, err
	}
	if err := c.SetGuestMemory(ctx, guest, whole); err != nil {
		return 0, err
	}
	have, err := settle(ctx, guest, func() (int, error) { return c.GuestMemory(ctx) })
	if errors.Is(err, ErrUntold) {
		return guest, err
	}
	return have, err
}

// inBounds returns an error if a guest of a VM with that much memory cannot have guest MiB.
// The hypervisors do not check it: QEMU and kvmtool accept any size, and crosvm inflates a
// balloon beyond the VM's memory.
func inBounds(guest, whole int) error {
	least := min(LeastGuest, whole)
	switch {
	case guest > whole:
		return exit.WithHint(fmt.Errorf("the VM has %d MiB, so its guest cannot have %d", whole, guest),
			"use %d to %d, or raise mem in its spec", least, whole)
	case guest < least:
		return exit.WithHint(fmt.Errorf("no guest runs in %d MiB", guest), "use %d to %d MiB", least, whole)
	}
	return nil
}

// settle calls have until it returns want, until its result has not changed for
// balloonSettles, or until ctx ends. It returns the last result.
func settle(ctx context.Context, want int, have func() (int, error)) (int, error) {
	last, err := have()
	for changed := time.Now(); (err == nil || errors.Is(err, ErrGuestCounts)) && last != want && time.Since(changed) < balloonSettles; {
		select {
		case <-ctx.Done():
			return last, err
		case <-time.After(balloonPoll):
		}
		var now int
		if now, err = have(); now != last {
			last, changed = now, time.Now()
		}
	}
	return last, err
}
