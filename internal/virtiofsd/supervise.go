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
	// settled is the time after which a virtiofsd has written what it logs at its start.
	settled = 300 * time.Millisecond
	// Stopping sends SIGTERM, then SIGKILL, and takes less than a second.
	termGrace = 400 * time.Millisecond
	killGrace = 400 * time.Millisecond
)

// supervisor runs the shares of one VM.
type supervisor struct {
	cfg      *Config
	log      *logger
	stateDir int
	shares   []*served
	// starting counts the shares whose first virtiofsd has not been started yet.
	starting sync.WaitGroup
}

// Run serves the shares until ctx is done, and then returns nil. It returns an error if
// the shares cannot be served or one keeps failing; an error that no retry can help is
// marked by exit.Config. When Run returns, it has left no process, socket or mount.
//
// It needs the capabilities of virtiofsd, and CAP_SYS_ADMIN for the mounts.
// CAP_SYS_PTRACE lets it find out whether a set-group-ID bit is for a directory.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	// The children of a killed virtiofsd become children of this process, which kills
	// them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper of virtiofsd's children: %w", err)
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
			return fmt.Errorf("report readiness: %w", err)
		}
	}
	return s.serve(ctx)
}

// prepare opens the sources, binds the sockets and looks up the programs, so that
// every error is found before the shares are reported as ready.
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

// foundProgram is the result of findProgram.
type foundProgram struct {
	program *program
	err     error
}

// findPrograms looks up the programs of all shares in the background, while the
// sockets are bound: virtiofsd --help takes as long as all the rest. The channel gets
// one map, by Share.Program.
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

// sockets returns the bound sockets.
func (s *supervisor) sockets() []Socket {
	var bound []Socket
	for _, sv := range s.shares {
		if sv.listener >= 0 {
			bound = append(bound, sv.socket)
		}
	}
	return bound
}

// close removes the sockets and closes everything that is open.
func (s *supervisor) close() {
	for _, sv := range s.shares {
		s.closeShare(sv)
	}
	if s.stateDir >= 0 {
		safepath.Close(s.stateDir)
	}
}

// serve runs every share until ctx is done or one share is given up.
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
		// Trim only when the log lines of their start have been copied.
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

// stop ends every virtiofsd and waits for the left goroutines that run them, which
// send to done.
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

// signal sends a signal to every running virtiofsd.
func (s *supervisor) signal(sig unix.Signal) {
	for _, sv := range s.shares {
		sv.mu.Lock()
		if sv.pidfd >= 0 {
			_ = unix.PidfdSendSignal(sv.pidfd, sig, nil, 0)
		}
		sv.mu.Unlock()
	}
}

// onOwnThread runs do on a thread that ends with the goroutine. That is never the main
// thread, which outlives its goroutines and whose mounts /proc/self shows as those of
// the process.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	// This goroutine holds the main thread, so the next one runs on another.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(do)
	}()
	<-done
	runtime.UnlockOSThread()
}
