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

// waiting calls do with the patience that the environment asks for, until a
// signal ends it.
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

// tunDevice is what makes taps.
const tunDevice = "/dev/net/tun"

// awaitTun waits for the module tun. What it does not get is left to who opens the
// device, and says what is wrong.
func awaitTun(ctx context.Context, p *wait.Patience) error {
	err := p.For(ctx, "device "+tunDevice, func() (bool, error) { return wait.Usable(tunDevice, unix.O_RDWR), nil },
		wait.Dir("/dev/net"), event.Devices)
	if errors.Is(err, wait.ErrNotThere) {
		return nil
	}
	return err
}

// awaitParents waits for the interfaces that macvtaps stand on.
func awaitParents(ctx context.Context, p *wait.Patience, list []hypervisor.Macvtap) error {
	for _, m := range list {
		err := p.For(ctx, "interface "+m.Link, func() (bool, error) { return netif.Exists(m.Link), nil }, event.Links)
		if errors.Is(err, wait.ErrNotThere) {
			return exit.WithHint(fmt.Errorf("interface %q %w, and macvtap %q is to stand on it", m.Link, err, m.ID),
				"correct macvtap.link, or bring that interface up before the VM%s", longer(p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// longer says what a wait that is too short is changed by.
func longer(p *wait.Patience) string {
	return fmt.Sprintf("; it was waited for %.0f s, which %s changes", p.Limit.Seconds(), wait.Variable)
}

// heard is how long udev may take to begin with a device.
const heard = 200 * time.Millisecond

// awaitDevices waits for PCI devices. Those that do not come are refused later,
// with whatever else is wrong.
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
			// One that came just now has to get its driver, from udev: that is the
			// one to give it back to. udev heard of it when we did.
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
