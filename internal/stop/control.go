package stop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"microvm/internal/control"
	"microvm/internal/hypervisor"
)

// askByControl sends the request, again and again, until the guest reacts or the
// hypervisor has exited.
func (s *stopping) askByControl(ctx context.Context) error {
	how := s.Plan.Shutdown
	if how.Control == nil {
		return errors.New("the plan has no control socket")
	}
	s.Logf("asking the guest to go down by %s", how.Method)
	trouble, pause := "", 500*time.Millisecond
	for attempt := 1; ; attempt++ {
		round, cancel := context.WithTimeout(ctx, s.Times.Again)
		reacted, err := s.askOnce(round, how)
		cancel()
		switch {
		case s.exited():
			return nil
		case reacted:
			s.Logf("the guest goes down, %s after it was first asked", s.elapsed())
			return nil
		case over(ctx):
			return fmt.Errorf("the guest did not go down within %s, asked %d times by %s", s.elapsed(), attempt, how.Method)
		case err == nil:
			s.Logf("the guest has not reacted to %s after %s; asking again", how.Method, s.elapsed())
			continue
		case err.Error() != trouble:
			trouble = err.Error()
			s.Logf("asking the guest to go down: %w; trying again", err)
		}
		// The socket does not exist yet, or the hypervisor is slow.
		s.pause(ctx, pause)
		pause = min(2*pause, s.Times.Again)
	}
}

// over reports whether ctx has ended. It also checks the deadline, as the timer of a
// connection with the same deadline may fire before ctx's.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// pause waits for d, or until the hypervisor exits or ctx ends, so that a control
// socket which fails at once is not tried in a busy loop.
func (s *stopping) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.Process.Gone():
	case <-ctx.Done():
	}
}

// askOnce sends one request, and reports whether the guest reacts to it until ctx
// ends: the hypervisor reports that, or exits.
func (s *stopping) askOnce(ctx context.Context, how hypervisor.Shutdown) (reacted bool, err error) {
	ctx, cancel := s.untilExit(ctx)
	defer cancel()
	client, err := control.Open(ctx, *how.Control, s.Dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = client.Close() }()
	if how.Method == hypervisor.ShutdownCtrlAltDel {
		err = client.CtrlAltDel(ctx)
	} else {
		err = client.PowerButton(ctx)
	}
	if err != nil {
		return false, err
	}
	return client.AwaitShutdown(ctx) == nil || s.exited(), nil
}

// untilExit returns a context that ends with ctx, and when the hypervisor exits.
func (s *stopping) untilExit(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.Process.Gone():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
