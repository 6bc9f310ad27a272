package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

const (
	// After this long a virtiofsd has said what it has to say at its start.
	settled = 300 * time.Millisecond
	// Stopping asks, then insists, and ends within a second.
	termGrace = 400 * time.Millisecond
	killGrace = 400 * time.Millisecond
)

// supervisor runs the shares of one VM.
type supervisor struct {
	cfg      *Config
	log      *logger
	stateDir int
	shares   []*served
	// starting counts the shares whose first virtiofsd is not yet started.
	starting sync.WaitGroup
}

// Run serves the shares until ctx is done, and then returns nil. It returns an
// error where the shares cannot be served, or where one keeps failing; errors
// that a retry does not mend are those of exit.Config. Nothing of it is left when it
// returns: no process, no socket, no mount.
//
// It needs the capabilities of virtiofsd, and SYS_ADMIN for the mounts; with
// SYS_PTRACE it can see that a set-group-ID bit is for a directory.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	// Orphans of a virtiofsd that was killed come to us and are not left over.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of virtiofsd's children: %w", err)
	}
	if cfg.Others != nil {
		cfg.Others = sync.OnceValues(cfg.Others)
	}
	s := &supervisor{cfg: &cfg, log: &logger{w: cfg.Log}, stateDir: -1}
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	if cfg.Ready != nil {
		if err := cfg.Ready(); err != nil {
			return fmt.Errorf("report that the shares are ready: %w", err)
		}
	}
	return s.serve(ctx)
}

// prepare opens, binds and looks up everything that may be refused, before
// anybody is told that the shares are ready.
func (s *supervisor) prepare() error {
	programs := s.findPrograms()
	fd, err := safepath.OpenDir(s.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("open state directory %q: %w", s.cfg.StateDir, err)
	}
	s.stateDir = fd
	var faults []error
	for i := range s.cfg.Shares {
		share := &s.cfg.Shares[i]
		if err := s.open(share); err != nil {
			faults = append(faults, shareError(share.Tag, err))
		}
	}
	found := <-programs
	for _, sv := range s.shares {
		if err := s.command(sv, found[sv.Program]); err != nil {
			faults = append(faults, shareError(sv.Tag, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if s.cfg.Bound == nil {
		return nil
	}
	return s.cfg.Bound(s.sockets())
}

// foundProgram is the result of one search.
type foundProgram struct {
	program *program
	err     error
}

// findPrograms looks for every program that the shares name, while the sockets
// are bound: starting a virtiofsd to ask for its options takes as long as all
// the rest.
func (s *supervisor) findPrograms() <-chan map[string]foundProgram {
	result := make(chan map[string]foundProgram, 1)
	go func() {
		found := map[string]foundProgram{}
		for _, share := range s.cfg.Shares {
			if _, done := found[share.Program]; done {
				continue
			}
			p, err := findProgram(share.Program)
			found[share.Program] = foundProgram{p, err}
		}
		result <- found
	}()
	return result
}

// sockets are those that are bound.
func (s *supervisor) sockets() []Socket {
	var bound []Socket
	for _, sv := range s.shares {
		if sv.listener >= 0 {
			bound = append(bound, sv.socket)
		}
	}
	return bound
}

// close closes all that is open.
func (s *supervisor) close() {
	for _, sv := range s.shares {
		s.closeShare(sv)
	}
	if s.stateDir >= 0 {
		safepath.Close(s.stateDir)
	}
}

// serve keeps every share running until ctx is done or one is given up.
func (s *supervisor) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(s.shares))
	s.starting.Add(len(s.shares))
	for _, sv := range s.shares {
		go onOwnThread(func() { done <- s.keep(ctx, sv) })
	}
	go func() {
		s.starting.Wait()
		// What they say when they start has to go through here, too.
		pause(ctx, settled)
		trim()
	}()
	var failure error
	left := len(s.shares)
	select {
	case <-ctx.Done():
	case failure = <-done:
		left--
		cancel()
	}
	return errors.Join(failure, s.stop(done, left))
}

// stop ends every virtiofsd and waits for the goroutines that keep them.
func (s *supervisor) stop(done <-chan error, left int) error {
	var faults []error
	for _, step := range []struct {
		signal unix.Signal
		grace  time.Duration
	}{{unix.SIGTERM, termGrace}, {unix.SIGKILL, killGrace}} {
		s.signal(step.signal)
		timeout := time.After(step.grace)
		for waiting := true; left > 0 && waiting; {
			select {
			case err := <-done:
				faults = append(faults, err)
				left--
			case <-timeout:
				waiting = false
			}
		}
	}
	s.killOrphans()
	return errors.Join(faults...)
}

// signal sends a signal to every virtiofsd that runs.
func (s *supervisor) signal(sig unix.Signal) {
	for _, sv := range s.shares {
		sv.mu.Lock()
		if sv.pidfd >= 0 {
			_ = unix.PidfdSendSignal(sv.pidfd, sig, nil, 0)
		}
		sv.mu.Unlock()
	}
}

// onOwnThread runs do on a thread that ends with the goroutine. It never is the
// main thread: that one outlives its goroutines, with all that was changed of
// it, and /proc/self shows its mounts as the process's.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	// While this goroutine holds the main thread, no other gets it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(do)
	}()
	<-done
	runtime.UnlockOSThread()
}
