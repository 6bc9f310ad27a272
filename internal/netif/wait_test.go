package netif

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"microvm/internal/netif/event"
	"microvm/internal/wait"
	"microvm/test/need"
)

func await(ctx context.Context, limit time.Duration, name string) error {
	p := &wait.Patience{Limit: limit}
	return p.For(ctx, "interface "+name, func() (bool, error) { return Exists(name), nil }, event.Links)
}

func TestAnInterfaceThatComesLaterIsWaitedFor(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		// This network, whichever thread asks.
		here, err := netlink.NewHandle()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		made := make(chan struct{})
		time.AfterFunc(time.Second, func() {
			defer close(made)
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "late0"
			if err := here.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		err = await(context.Background(), 30*time.Second, "late0")
		if took := time.Since(began); err != nil || took < 900*time.Millisecond {
			t.Errorf("%v after %s", err, took)
		}
		<-made
	})
}

func TestARenamedInterfaceCounts(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		here, err := netlink.NewHandle()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		ip(t, "link", "add", "eth0", "type", "bridge")
		renamed := make(chan struct{})
		time.AfterFunc(200*time.Millisecond, func() {
			defer close(renamed)
			l, err := here.LinkByName("eth0")
			if err == nil {
				err = here.LinkSetName(l, "enp3s0")
			}
			if err != nil {
				t.Error(err)
			}
		})
		if err := await(context.Background(), 30*time.Second, "enp3s0"); err != nil {
			t.Error(err)
		}
		<-renamed
	})
}

func TestAnInterfaceThatNeverComesIsNotWaitedForLonger(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		began := time.Now()
		if err := await(context.Background(), 300*time.Millisecond, "never0"); !errors.Is(err, wait.ErrNotThere) || time.Since(began) > 20*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// TestDevicesAreHeardOf needs no new device: on a write to uevent, the kernel sends
// again the message that it sent when the device was added.
func TestDevicesAreHeardOf(t *testing.T) {
	const again = "/sys/class/mem/null/uevent"
	need.Root(t)
	f, err := os.OpenFile(again, os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("needs a /sys that can be written to: %v", err)
	}
	defer func() { _ = f.Close() }()
	events, err := event.Devices()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = events.Close() }()
	if _, err := f.WriteString("change"); err != nil {
		t.Fatal(err)
	}
	if err := events.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Read(make([]byte, 16<<10)); err != nil {
		t.Error(err)
	}
}
