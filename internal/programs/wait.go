package programs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/netif/event"
	"microvm/internal/vfio"
	"microvm/internal/wait"
)

// waiting calls do with the environment's Patience, and a context that SIGTERM or
// SIGINT ends.
func waiting(program, vm string, stderr io.Writer, do func(context.Context, *wait.Patience) error) error {
	p, err := wait.FromEnv(func(line string) { _, _ = fmt.Fprintf(stderr, "%s: %s: %s\n", program, vm, line) })
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err = do(ctx, p)
	if err != nil && ctx.Err() != nil {
		return exit.Interrupted(err)
	}
	return err
}

// tunDevice is the device that creates taps.
const tunDevice = "/dev/net/tun"

// awaitTun waits for the module tun. It returns nil if that does not come: opening the
// device reports it.
func awaitTun(ctx context.Context, p *wait.Patience) error {
	err := p.For(ctx, "device "+tunDevice, func() (bool, error) { return wait.Usable(tunDevice, unix.O_RDWR), nil },
		wait.Dir("/dev/net"), event.Devices)
	if errors.Is(err, wait.ErrNotThere) {
		return nil
	}
	return err
}

// awaitParents waits for the links of macvtaps.
func awaitParents(ctx context.Context, p *wait.Patience, list []hypervisor.Macvtap) error {
	for _, m := range list {
		err := p.For(ctx, "interface "+m.Link, func() (bool, error) { return netif.Exists(m.Link), nil }, event.Links)
		if errors.Is(err, wait.ErrNotThere) {
			return p.WithHint(exit.WithHint(fmt.Errorf("interface %q %w, the link of macvtap %q", m.Link, err, m.ID),
				"correct macvtap.link, or bring that interface up before the VM"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// heard is how long udev may take to begin with a new device.
const heard = 200 * time.Millisecond

// awaitDevices waits for PCI devices. It returns nil for those that do not come: they
// are reported later, with all other faults.
func awaitDevices(ctx context.Context, p *wait.Patience, list []hypervisor.PCI) error {
	for _, d := range list {
		if !vfio.ValidAddress(d.Address) {
			continue
		}
		if vfio.Present(d.Address) {
			continue
		}
		settled := false
		err := p.For(ctx, "PCI device "+d.Address, func() (bool, error) {
			if !vfio.Present(d.Address) {
				return false, nil
			}
			// A new device must get its driver from udev first, as that is the one to
			// give it back to. udev learns of the device when we do.
			if !settled {
				time.Sleep(heard)
				settled = true
			}
			return wait.UdevIdle(), nil
		}, event.Devices, wait.UdevQueue())
		if errors.Is(err, wait.ErrNotThere) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
