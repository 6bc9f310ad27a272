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
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/timeline"
	"microvm/internal/unit"
	"microvm/internal/wait"
)

// ChildCommand is the word by which this program runs its readiness child.
const ChildCommand = "await-ready"

// childListenerFD is where the child finds the guest listener: the first
// after standard error.
const childListenerFD = 3

// childOrders is what the child is told.
type childOrders struct {
	Readiness  hypervisor.Readiness `json:"readiness"`
	CID        int64                `json:"cid"`
	Hypervisor string               `json:"hypervisor"`
	// PID of what is about to become the hypervisor.
	PID int `json:"pid"`
	// Listener is the path of the guest listener where it is a Unix socket.
	Listener string `json:"listener,omitempty"`
	// VM is the name by which the unit's journal knows who speaks.
	VM string `json:"vm,omitempty"`
	// Keep says to do nothing but to ask for patience, until it is ended.
	Keep bool `json:"keep,omitempty"`
	// Look is the time between two looks at the progress of the start.
	Look time.Duration `json:"look"`
}

// startChild starts the child that will say READY=1. Its parent is ours, the
// service manager, which reaps it: the hypervisor that this process becomes
// does not know of it.
func (l *Launcher) startChild(plan *hypervisor.Plan, listener *guestListener) error {
	orders := childOrders{Readiness: plan.Readiness, Hypervisor: plan.Hypervisor, PID: os.Getpid(), VM: l.vm}
	if plan.VsockCID != nil {
		orders.CID = *plan.VsockCID
	}
	_, err := l.startChildWith(orders, listener)
	return err
}

// startChildWith starts this program as its child with these orders.
func (l *Launcher) startChildWith(orders childOrders, listener *guestListener) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", err)
	}
	orders.Look = l.pause()
	files := []uintptr{null.Fd(), null.Fd(), 2}
	if listener != nil {
		files = append(files, listener.file.Fd())
		orders.Listener = listener.path
	}
	text, err := json.Marshal(orders)
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", errors.Join(err, null.Close()))
	}
	//nolint:gosec // this program itself
	pid, err = syscall.ForkExec(ourselves(), []string{program, ChildCommand, string(text)}, &syscall.ProcAttr{
		Files: files,
		Env:   []string{"NOTIFY_SOCKET=" + l.Notify, "JOURNAL_STREAM=" + os.Getenv("JOURNAL_STREAM"), "GOMAXPROCS=1"},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT},
	})
	runtime.KeepAlive(listener) // its descriptor has to stay open until here
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", errors.Join(err, null.Close()))
	}
	return pid, null.Close()
}

// ourselves is this program. A name of its own makes the child known by that in
// ps and in the journal.
func ourselves() string {
	path, err := os.Executable()
	if err != nil || unix.Access(path, unix.X_OK) != nil {
		return "/proc/self/exe" // replaced while it runs
	}
	return path
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
	go func() {
		<-dead
		cancel()
	}()
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

// logReady logs how long the start took: a line for people, and fields that microvm
// analyze reads. It comes before READY=1, so that it is in the journal when a start
// returns.
func (c *child) logReady() {
	ready := time.Since(c.began)
	text := fmt.Sprintf(program+": ready %.3f s after the hypervisor was started", ready.Seconds())
	fields := []string{fmt.Sprintf("%s=%d", timeline.ReadyField, ready.Microseconds())}
	if c.first > 0 {
		text += fmt.Sprintf("; its guest first reported after %.3f s", c.first.Seconds())
		fields = append(fields, fmt.Sprintf("%s=%d", timeline.ReportField, c.first.Microseconds()))
	}
	c.log(text, fields...)
}

// log writes a line to the journal by a way of its own: on standard error, which
// is the hypervisor's as well, systemd-journald would take the change of the
// sender for the end of a line, and the guest is just writing one. Fields, each
// NAME=VALUE, go only to the journal.
func (c *child) log(text string, fields ...string) {
	if ours, err := journal.StderrIsJournalStream(); ours && err == nil && c.toJournal(text, fields) == nil {
		return
	}
	_, _ = fmt.Fprintln(os.Stderr, text)
}

// journalSocket and what is sent there: systemd's JOURNAL_NATIVE_PROTOCOL.
const journalSocket = "/run/systemd/journal/socket"

// journalTimeout is how long a busy journal may take to receive a line.
const journalTimeout = 5 * time.Second

// toJournal sends an entry and waits until the journal has received it: which unit
// it is from, the journal reads from the process that sent it, and this one ends
// soon after.
func (c *child) toJournal(text string, fields []string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	entry := append([]string{"PRIORITY=6", "SYSLOG_IDENTIFIER=" + unit.Process(c.orders.VM), "MESSAGE=" + text}, fields...)
	if err := unix.Sendto(fd, []byte(strings.Join(entry, "\n")+"\n"), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: journalSocket}); err != nil {
		return err
	}
	for deadline := time.Now().Add(journalTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if waiting, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ); err != nil || waiting == 0 {
			break
		}
	}
	return nil
}

// watch returns a channel that is closed when the process is gone.
func watch(pid int) (<-chan struct{}, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		gone := make(chan struct{})
		close(gone)
		return gone, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return ended(fd)
}

// ended returns a channel that is closed when the process of a pidfd is gone. The
// pidfd stays the caller's.
func ended(pidfd int) (<-chan struct{}, error) {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch a process: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer func() { _ = unix.Close(fd) }()
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
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
		err = errors.Join(err, removeSockets(".", []string{c.orders.Listener}))
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
