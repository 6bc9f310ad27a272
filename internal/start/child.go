package start

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/process"
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

// announce says READY=1 now, or starts the child that will.
func (s *start) announce(listener *guestListener) error {
	if s.Notify == "" {
		return nil
	}
	if s.plan.Readiness.Mode == hypervisor.ReadyNone {
		return notify.Send(s.Notify, "READY=1", "STATUS=Executed "+s.plan.Hypervisor, notify.NoMore)
	}
	return s.startChild(listener)
}

// startChild starts the child that will say READY=1. Its parent is ours, the
// service manager, which reaps it: the hypervisor that this process becomes
// does not know of it.
func (s *start) startChild(listener *guestListener) error {
	plan := s.plan
	orders := childOrders{Readiness: plan.Readiness, Hypervisor: plan.Hypervisor, PID: os.Getpid(), VM: s.vm.Name}
	if plan.VsockCID != nil {
		orders.CID = *plan.VsockCID
	}
	_, err := s.startChildWith(orders, listener)
	return err
}

// startChildWith starts this program as its child with these orders.
func (s *start) startChildWith(orders childOrders, listener *guestListener) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", err)
	}
	orders.Look = s.pause()
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
	pid, err = syscall.ForkExec(process.Self(), []string{wrapper, ChildCommand, string(text)}, &syscall.ProcAttr{
		Files: files,
		Env:   []string{"NOTIFY_SOCKET=" + s.Notify, "JOURNAL_STREAM=" + os.Getenv("JOURNAL_STREAM"), "GOMAXPROCS=1"},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT},
	})
	runtime.KeepAlive(listener) // its descriptor has to stay open until here
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", errors.Join(err, null.Close()))
	}
	return pid, null.Close()
}
