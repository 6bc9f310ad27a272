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

// ChildCommand is the argument with which this program runs its readiness child.
const ChildCommand = "await-ready"

// childListenerFD is the descriptor of the guest listener in the child: the first
// after standard error.
const childListenerFD = 3

// childOrders are the instructions for the child.
type childOrders struct {
	Readiness  hypervisor.Readiness `json:"readiness"`
	CID        int64                `json:"cid"`
	Hypervisor string               `json:"hypervisor"`
	// PID is the process that is about to become the hypervisor.
	PID int `json:"pid"`
	// Listener is the path of the guest listener where it is a Unix socket.
	Listener string `json:"listener,omitempty"`
	// VM is the VM's name, for the identifier of journal entries.
	VM string `json:"vm,omitempty"`
	// Keep makes the child only prolong the start, until it is ended.
	Keep bool `json:"keep,omitempty"`
	// Look is the time between two checks of the start's progress.
	Look time.Duration `json:"look"`
}

// announce sends READY=1, or starts the child that will send it.
func (s *start) announce(listener *guestListener) error {
	if s.Notify == "" {
		return nil
	}
	if s.plan.Readiness.Mode == hypervisor.ReadyNone {
		return notify.Send(s.Notify, "READY=1", "STATUS=Executed "+s.plan.Hypervisor, notify.NoMore)
	}
	return s.startChild(listener)
}

// startChild starts the child that will send READY=1. Its parent is this process's
// parent, the service manager, which reaps it: the hypervisor that this process
// becomes does not know of the child.
func (s *start) startChild(listener *guestListener) error {
	plan := s.plan
	orders := childOrders{Readiness: plan.Readiness, Hypervisor: plan.Hypervisor, PID: os.Getpid(), VM: s.vm.Name}
	if plan.VsockCID != nil {
		orders.CID = *plan.VsockCID
	}
	_, err := s.startChildWith(orders, listener)
	return err
}

// startChildWith starts this program as a child with the given orders, and returns
// its process ID. listener may be nil.
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
	runtime.KeepAlive(listener) // a finalizer would close its descriptor
	if err != nil {
		return 0, fmt.Errorf("start the readiness child: %w", errors.Join(err, null.Close()))
	}
	return pid, null.Close()
}
