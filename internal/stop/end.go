package stop

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// force ends the hypervisor by SIGTERM, and by SIGKILL if it ignores that.
func (s *stopping) force(ctx context.Context) error {
	s.Logf("sending SIGTERM to the hypervisor after %s", s.elapsed())
	if err := s.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("send SIGTERM to process %d: %w", s.Process.PID(), err)
	}
	term, cancel := context.WithTimeout(ctx, s.Times.Term)
	defer cancel()
	if s.wait(term) {
		s.Logf("the hypervisor exited after SIGTERM, %s after the guest was first asked", s.elapsed())
		return nil
	}
	s.Logf("sending SIGKILL to the hypervisor after %s: it ignored SIGTERM", s.elapsed())
	if err := s.Process.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("send SIGKILL to process %d: %w", s.Process.PID(), err)
	}
	<-s.Process.Gone()
	return nil
}

// exited reports whether the hypervisor has exited.
func (s *stopping) exited() bool {
	select {
	case <-s.Process.Gone():
		return true
	default:
		return false
	}
}

// wait waits for the hypervisor to exit, until ctx ends, and reports whether it did.
func (s *stopping) wait(ctx context.Context) bool {
	select {
	case <-s.Process.Gone():
		return true
	case <-ctx.Done():
		return s.exited()
	}
}
