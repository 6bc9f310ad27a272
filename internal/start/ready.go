package start

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/process"
	"microvm/internal/safepath"
	"microvm/internal/wait"
)

// AwaitReady is the readiness child: it says READY=1 when it is true, and is
// gone then, or when the hypervisor is.
func AwaitReady(text string, notifySocket string) error {
	var orders childOrders
	if err := json.Unmarshal([]byte(text), &orders); err != nil {
		return fmt.Errorf("readiness child: %w", err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	launched, err := process.Hold(orders.PID)
	if err != nil {
		return err
	}
	if launched == nil {
		cancel()
	} else {
		launched.Release() // its end is seen all the same
		go func() {
			<-launched.Gone()
			cancel()
		}()
	}
	if orders.Keep {
		ctx, cancel := context.WithTimeout(ctx, maxPrepare)
		defer cancel()
		return keep(ctx, notifySocket, orders.Look)
	}
	c := &child{orders: orders, notify: notifySocket, began: time.Now()}
	go c.watchProgress(ctx, orders.Look)
	switch orders.Readiness.Mode {
	case hypervisor.ReadyGuest:
		err = c.guest(ctx)
	default:
		err = c.vmm(ctx)
	}
	if ctx.Err() != nil {
		return nil // the hypervisor is gone; post tells how far it got
	}
	if err != nil {
		err = errors.Join(err, notify.Send(notifySocket, "STATUS="+err.Error()))
	}
	err = errors.Join(err, notify.Send(notifySocket, notify.NoMore))
	// Its sender's unit is found by its process, which has to be there still.
	return errors.Join(err, notify.Barrier(notifySocket, barrierTimeout))
}

// barrierTimeout is how long a busy service manager may take.
const barrierTimeout = 5 * time.Second

type child struct {
	orders childOrders
	notify string
	began  time.Time
	// reports is how often the guest has said something, first is when it did first.
	reports atomic.Int64
	first   time.Duration
	// over says that READY=1 is being sent; sending keeps the order.
	sending sync.Mutex
	over    bool
}

// vmm waits until the control socket says that the VM runs.
func (c *child) vmm(ctx context.Context) error {
	how := c.orders.Readiness.Control
	if how == nil {
		return errors.New("the plan names no control socket")
	}
	if err := waitFile(ctx, how.Socket); err != nil {
		return err
	}
	// It may be bound and not listen yet, for which there is no event.
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if awaitRunning(ctx, *how) == nil {
			c.logReady()
			c.startIsOver()
			return notify.Send(c.notify, "READY=1", "STATUS="+c.orders.Hypervisor+" runs the VM")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// awaitRunning returns nil once the VM runs. It opens one connection for that, and
// closes it after some seconds: some hypervisors serve one at a time.
func awaitRunning(ctx context.Context, how hypervisor.Control) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := control.Open(ctx, how, ".")
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	return client.AwaitRunning(ctx)
}

// waitFile waits for a file to appear, and before that for the
// directory that it will be in: kvmtool makes its own.
func waitFile(ctx context.Context, path string) error {
	if dir := filepath.Dir(path); dir != "." && dir != "/" {
		if err := waitFile(ctx, dir); err != nil {
			return err
		}
	}
	err := wait.InDir(ctx, filepath.Dir(path), func() (bool, error) {
		_, err := os.Lstat(path)
		return err == nil, nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("wait for %s: %w", path, err)
	}
	return err
}

// guest relays what the guest says until it is ready.
func (c *child) guest(ctx context.Context) error {
	listener, err := c.listener()
	if err != nil {
		return fmt.Errorf("listen for the guest: %w", err)
	}
	relay := notify.Relay{Listener: listener, CID: uint32(c.orders.CID), Forward: c.forward}
	err = relay.Run(ctx)
	if c.orders.Listener != "" {
		err = errors.Join(err, safepath.RemoveStale(".", unix.S_IFSOCK, c.orders.Listener))
	}
	return err
}

// listener is the one that was inherited.
func (c *child) listener() (net.Listener, error) {
	file := os.NewFile(childListenerFD, "guest")
	defer func() { _ = file.Close() }() // the listener has its own
	if c.orders.Listener != "" {
		return net.FileListener(file)
	}
	return vsock.FileListener(file)
}

// forward passes a guest's message on, and gives it more time while it boots.
func (c *child) forward(assignments []string) error {
	if c.reports.Add(1) == 1 {
		c.first = time.Since(c.began)
	}
	if slices.Contains(assignments, "READY=1") {
		c.logReady()
		c.startIsOver()
	} else if time.Since(c.began) < maxBoot {
		assignments = append(assignments, extend())
	}
	return notify.Send(c.notify, assignments...)
}
