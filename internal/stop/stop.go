// Package stop ends a VM's hypervisor: it asks the guest to go down, waits until the
// hypervisor has exited, and ends it by force if that takes too long. It also finds
// the process of a hypervisor.
package stop

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/process"
	"microvm/internal/safepath"
)

// Request describes a stop.
type Request struct {
	// Process is the hypervisor; nil means that it has exited. The stop releases it.
	Process *process.Process
	// Plan is the plan that the VM was started with, Package the directory of its
	// package, and Dir the state directory.
	Plan    *hypervisor.Plan
	Package string
	Dir     string
	Times   Times
	// Logf logs each stage of the stop.
	Logf exit.Logf
}

// Hypervisor asks the guest to go down and waits until the hypervisor has exited. If
// it returns earlier, it returns an error: the service manager then kills what still
// runs.
func Hypervisor(ctx context.Context, r Request) error {
	if r.Plan.Shutdown.Method == hypervisor.ShutdownScript && os.Geteuid() == 0 {
		return exit.WithHint(exit.Configf("%s has its own shutdown program, which is not run as root", r.Package),
			"stop the VM as the user that runs it, or with: microvm stop NAME")
	}
	return r.stop(ctx)
}

func (r Request) stop(ctx context.Context) error {
	if ssh := r.Plan.Shutdown.SSH; ssh != nil {
		// The key is of no use after this run of the guest.
		defer func() { _ = safepath.RemoveStale(r.Dir, unix.S_IFREG, ssh.Key) }()
	}
	if r.Process == nil {
		return nil
	}
	defer r.Process.Release()
	s := &stopping{Request: r, began: time.Now()}
	if s.ask(ctx) {
		s.Logf("the hypervisor exited after %s", s.elapsed())
		return nil
	}
	return s.force(ctx)
}

// stopping is a stop in progress.
type stopping struct {
	Request
	began time.Time
}

// elapsed returns how long the stop has taken so far.
func (s *stopping) elapsed() string {
	return fmt.Sprintf("%.1f s", time.Since(s.began).Seconds())
}

// ask asks the guest to go down, by the plan's method, and reports whether the
// hypervisor has exited within Times.Graceful.
func (s *stopping) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, s.Times.Graceful)
	defer cancel()
	var err error
	switch s.Plan.Shutdown.Method {
	case hypervisor.ShutdownNone:
		s.Logf("this VM cannot be asked to go down: %s", s.Plan.Shutdown.Why)
		return s.exited()
	case hypervisor.ShutdownScript:
		err = s.runScript(ctx)
	case hypervisor.ShutdownGuestOverSSH:
		err = s.askOverSSH(ctx)
	default:
		err = s.askByControl(ctx)
	}
	if err != nil {
		// The request failed, so the guest will not go down.
		s.Logf("%w", err)
		return s.exited()
	}
	return s.wait(ctx)
}
