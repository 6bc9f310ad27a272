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

// AwaitReady is the readiness child. text is its orders in JSON. It sends READY=1 to
// notifySocket once the VM is ready, then returns; it also returns if the hypervisor
// exits.
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
		launched.Release() // Gone works all the same
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
		return nil // the hypervisor has exited; post logs how far it got
	}
	if err != nil {
		err = errors.Join(err, notify.Send(notifySocket, "STATUS="+err.Error()))
	}
	err = errors.Join(err, notify.Send(notifySocket, notify.NoMore))
	// The manager finds the sender's unit by its process, which must still exist then.
	return errors.Join(err, notify.Barrier(notifySocket, barrierTimeout))
}

// barrierTimeout is how long a busy service manager may take.
const barrierTimeout = 5 * time.Second

// child is the readiness child.
type child struct {
	orders childOrders
	notify string
	began  time.Time
	// reports counts the guest's reports, and first is when the first one came.
	reports atomic.Int64
	first   time.Duration
	// over means that READY=1 is being sent; sending guards it.
	sending sync.Mutex
	over    bool
}

// vmm waits until the hypervisor reports on its control socket that the VM runs.
func (c *child) vmm(ctx context.Context) error {
	how := c.orders.Readiness.Control
	if how == nil {
		return errors.New("the plan has no control socket")
	}
	if err := waitFile(ctx, how.Socket); err != nil {
		return err
	}
	// The socket may be bound and not yet listen. There is no event for that.
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

// awaitRunning returns nil once the VM runs, and an error after some seconds: it then
// closes its connection, as some hypervisors serve only one at a time.
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

// waitFile waits until a file exists, and before that until its directory does, which
// kvmtool creates.
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

// guest relays the guest's reports until the guest is ready.
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

// listener returns the inherited listener.
func (c *child) listener() (net.Listener, error) {
	file := os.NewFile(childListenerFD, "guest")
	defer func() { _ = file.Close() }() // the listener has its own descriptor
	if c.orders.Listener != "" {
		return net.FileListener(file)
	}
	return vsock.FileListener(file)
}

// forward sends a guest's message to the service manager, with a request for more
// time while the guest boots.
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
