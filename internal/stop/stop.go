// Package stop ends a VM's hypervisor: it asks the guest to go down, waits until
// the hypervisor has exited, and ends it by force where that takes too long. It
// finds, too, which process a hypervisor is.
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

// Request is what a stop has to know.
type Request struct {
	// Process is the hypervisor; nil means that it has exited. The stop releases it.
	Process *process.Process
	// Plan is what it was started with, Package the directory of the package that
	// has the plan, and Dir the state directory.
	Plan    *hypervisor.Plan
	Package string
	Dir     string
	Times   Times
	// Logf gets a line for each stage.
	Logf exit.Logf
}

// Hypervisor asks the guest to go down and waits until the hypervisor is gone. It
// never returns early without an error: the service manager kills what still runs
// then.
func Hypervisor(ctx context.Context, r Request) error {
	if r.Plan.Shutdown.Method == hypervisor.ShutdownScript && os.Geteuid() == 0 {
		return exit.Config(fmt.Errorf("%s brings a program of its own for the shutdown, which does not run as root; stop the VM with: microvm stop NAME, or as the user that runs it", r.Package))
	}
	return r.stop(ctx)
}

func (r Request) stop(ctx context.Context) error {
	if ssh := r.Plan.Shutdown.SSH; ssh != nil {
		// It is of no use to anybody without the guest that knows it.
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

// stopping is a stop that goes on.
type stopping struct {
	Request
	began time.Time
}

// elapsed returns how long the stop has taken so far.
func (s *stopping) elapsed() string {
	return fmt.Sprintf("%.1f s", time.Since(s.began).Seconds())
}

// ask asks the guest to go down, by the way that the plan names, and reports
// whether the hypervisor has exited in the guest's time.
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
		// A request that failed is nothing to wait for.
		s.Logf("%w", err)
		return s.exited()
	}
	return s.wait(ctx)
}
