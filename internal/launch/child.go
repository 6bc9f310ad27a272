package launch

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
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
)

// ChildCommand is the word by which this program runs its readiness child.
const ChildCommand = "await-ready"

// childListenerFD is where the child finds the guest listener: the first
// after standard error.
const childListenerFD = 3

// maxExtend bounds by how much a guest that keeps reporting its progress can
// extend the time that its start may take.
const (
	maxExtend  = 10 * time.Minute
	extendStep = 30 * time.Second
)

// childOrders is what the child is told.
type childOrders struct {
	Readiness  hypervisor.Readiness `json:"readiness"`
	CID        int64                `json:"cid"`
	Hypervisor string               `json:"hypervisor"`
	// PID of what is about to become the hypervisor.
	PID int `json:"pid"`
}

// guestListener is where the guest will report.
type guestListener struct {
	file *os.File
	num  uint32
}

func (g *guestListener) port() uint32 {
	if g == nil {
		return 0
	}
	return g.num
}

// listen opens where the guest will report, before the hypervisor starts, so
// that nothing it says is lost. It is nil where the guest reports nothing.
func (l *Launcher) listen(plan *hypervisor.Plan) (*guestListener, error) {
	if plan.Readiness.Mode != hypervisor.ReadyGuest || l.Notify == "" {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open vsock: %w; load the module with: modprobe vhost_vsock", err)
	}
	file := os.NewFile(uintptr(fd), "vsock")
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY})
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on vsock: %w", errors.Join(err, file.Close()))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock: %w", errors.Join(err, file.Close()))
	}
	addr, ok := name.(*unix.SockaddrVM)
	if !ok {
		return nil, errors.New("listen on vsock: the kernel gave an address of another family")
	}
	return &guestListener{file: file, num: addr.Port}, nil
}

// startChild starts the child that will say READY=1. Its parent is ours, the
// service manager, which reaps it: the hypervisor that this process becomes
// does not know of it.
func (l *Launcher) startChild(_ context.Context, plan *hypervisor.Plan, listener *guestListener) error {
	orders := childOrders{Readiness: plan.Readiness, Hypervisor: plan.Hypervisor, PID: os.Getpid()}
	if plan.VsockCID != nil {
		orders.CID = *plan.VsockCID
	}
	text, err := json.Marshal(orders)
	if err != nil {
		return fmt.Errorf("start the readiness child: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start the readiness child: %w", err)
	}
	files := []*os.File{null, null, os.Stderr}
	if listener != nil {
		files = append(files, listener.file)
	}
	child, err := os.StartProcess("/proc/self/exe", []string{"microvm-run-wrapper", ChildCommand, string(text)}, &os.ProcAttr{
		Files: files,
		Env:   []string{"NOTIFY_SOCKET=" + l.Notify, "GOMAXPROCS=1"},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT},
	})
	if err != nil {
		return fmt.Errorf("start the readiness child: %w", err)
	}
	return errors.Join(child.Release(), null.Close())
}

// AwaitReady is the readiness child: it says READY=1 when it is true, and is
// gone then, or when the hypervisor is.
func AwaitReady(text string, notifySocket string) error {
	var orders childOrders
	if err := json.Unmarshal([]byte(text), &orders); err != nil {
		return fmt.Errorf("readiness child: %w", err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	dead, err := watch(orders.PID)
	if err != nil {
		return err
	}
	var c *child
	go func() {
		<-dead
		cancel()
	}()
	c = &child{orders: orders, notify: notifySocket, progress: "the guest has not reported anything"}
	switch orders.Readiness.Mode {
	case hypervisor.ReadyGuest:
		err = c.guest(ctx)
	default:
		err = c.vmm(ctx)
	}
	if err == nil {
		return nil
	}
	return c.gaveUp(err, dead)
}

type child struct {
	orders   childOrders
	notify   string
	progress string
	extended time.Duration
}

// gaveUp tells the operator how far it got.
func (c *child) gaveUp(err error, dead <-chan struct{}) error {
	what := "the start was ended before the VM was ready"
	select {
	case <-dead:
		what = c.orders.Hypervisor + " exited before the VM was ready"
	default:
		if !errors.Is(err, context.Canceled) {
			what = err.Error()
		}
	}
	if c.orders.Readiness.Mode == hypervisor.ReadyGuest {
		what += "; " + c.progress
	}
	return errors.Join(errors.New(what), notify.Send(c.notify, "STATUS="+what))
}

// watch returns a channel that is closed when the process is gone.
func watch(pid int) (<-chan struct{}, error) {
	gone := make(chan struct{})
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		close(gone)
		return gone, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		defer close(gone)
		defer func() { _ = unix.Close(fd) }()
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor fits
		for {
			if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return gone, nil
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
	for {
		running, err := ask(ctx, *how)
		if err == nil && running {
			return notify.Send(c.notify, "READY=1", "STATUS="+c.orders.Hypervisor+" runs the VM")
		}
		// Bound but not yet listening, or listening and not yet running: there
		// is no event for either.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func ask(ctx context.Context, how hypervisor.Control) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := control.Open(ctx, how, ".")
	if err != nil {
		return false, err
	}
	running, err := client.Running(ctx)
	return running, errors.Join(err, client.Close())
}

// waitFile waits for a file to appear, by inotify(7).
func waitFile(ctx context.Context, path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", path, err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer func() { _ = events.Close() }()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return fmt.Errorf("wait for %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

// guest relays what the guest says until it is ready.
func (c *child) guest(ctx context.Context) error {
	file := os.NewFile(childListenerFD, "guest")
	var listener net.Listener
	listener, err := vsock.FileListener(file)
	if err != nil {
		return fmt.Errorf("listen for the guest: %w", err)
	}
	_ = file.Close()                                                                         // the listener has its own
	relay := notify.Relay{Listener: listener, CID: uint32(c.orders.CID), Forward: c.forward} //nolint:gosec // validated with the plan
	return relay.Run(ctx)
}

// forward passes a guest's message on and gives it more time while it makes
// progress.
func (c *child) forward(assignments []string) error {
	for _, a := range assignments {
		text, isStatus := strings.CutPrefix(a, "STATUS=")
		if !isStatus {
			continue
		}
		c.progress = fmt.Sprintf("the guest's last word was %q", text)
		if c.extended < maxExtend && !slices.Contains(assignments, "READY=1") {
			c.extended += extendStep
			assignments = append(assignments, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendStep.Microseconds()))
		}
	}
	return notify.Send(c.notify, assignments...)
}
