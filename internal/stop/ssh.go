package stop

import (
	"context"
	"fmt"

	"microvm/internal/askguest"
	"microvm/internal/guest"
	"microvm/internal/hypervisor"
)

// askOverSSH asks the guest over SSH. It returns nil if the guest goes down or the
// hypervisor exits, and an error if the guest could not be asked, or did not go down
// before ctx ended.
func (s *stopping) askOverSSH(ctx context.Context) error {
	plan, how := s.Plan, s.Plan.Shutdown.SSH
	s.Logf("asking the guest to go down by %s", plan.Shutdown.Method)
	ended := make(chan error, 1)
	go func() {
		ended <- askguest.Ask(ctx, askguest.Request{
			Address: guest.Address{CID: uint32(*plan.VsockCID), Socket: how.VsockSocket, Dir: s.Dir},
			Key:     how.Key, Command: how.Command, Login: s.Times.Login,
			// A guest that has reported that it is up has started its sshd.
			Booting: plan.Readiness.Mode != hypervisor.ReadyGuest,
			Asked:   func() { s.Logf("the guest runs %q, %s after it was first asked", how.Command, s.elapsed()) },
		})
	}()
	select {
	case <-s.Process.Gone():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the guest did not go down within %s, asked by %s", s.elapsed(), plan.Shutdown.Method)
	case err := <-ended:
		switch {
		case s.exited():
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the guest did not go down within %s, asked by %s", s.elapsed(), plan.Shutdown.Method)
		case err != nil:
			return fmt.Errorf("the guest cannot be asked over ssh: %w", err)
		}
	}
	s.Logf("the guest goes down, %s after it was first asked", s.elapsed())
	return nil
}
