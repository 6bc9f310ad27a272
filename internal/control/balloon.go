package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"microvm/internal/exit"
)

// Sizes of a guest's memory are in MiB and count from the VM's: with an empty
// balloon the guest has all of it, what its kernel keeps for itself included.

// ErrUntold says that a balloon was set, and that nobody can tell what it reached.
var ErrUntold = errors.New("the hypervisor cannot tell what the balloon has reached; this is what it was set to")

// ErrGuestCounts says that a size is the guest's own count.
var ErrGuestCounts = errors.New("this is what the guest's kernel counts, which leaves out what it keeps for itself")

const (
	// LeastGuest is the least that a balloon leaves a guest. No kernel with a
	// balloon's driver runs in less; who asks for it means another unit.
	LeastGuest = 16
	// balloonPoll is how often a balloon is looked at.
	balloonPoll = 200 * time.Millisecond
	// balloonSettles is after what time without a change a balloon counts as settled.
	balloonSettles = 3 * time.Second
)

// Balloon sets what the VM's balloon leaves its guest, unless guest is 0, and
// returns what the guest has when that is reached, when it has stopped to change,
// or when ctx ends: a guest that frees nothing is no error. With ErrUntold it
// returns what was set, with ErrGuestCounts what the guest counts.
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

// inBounds says why a guest of a VM with so much memory cannot have that. The
// hypervisors do not: QEMU and kvmtool take any size and give what there is,
// crosvm inflates below nothing.
func inBounds(guest, whole int) error {
	least := min(LeastGuest, whole)
	switch {
	case guest > whole:
		return exit.WithHint(fmt.Errorf("the VM has %d MiB; a balloon cannot give its guest %d", whole, guest),
			"give %d to %d; for more, raise mem in its spec", least, whole)
	case guest < least:
		return exit.WithHint(fmt.Errorf("no guest runs in %d MiB", guest), "sizes are in MiB; give %d to %d", least, whole)
	}
	return nil
}

// settle asks have again and again until it is want, it has not changed for a
// while, or ctx ends.
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
