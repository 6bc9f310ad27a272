package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstDelay and its doubles come between failures in a row; after
	// maxFailures of them the share is given up, 3.1 s after the first.
	firstDelay  = 100 * time.Millisecond
	maxFailures = 6
	// A virtiofsd that lasted this long had a good start: failures count anew.
	goodRun = 10 * time.Second
	// A client that comes and goes faster than this is slowed down to one
	// connection in maxPause: starting a process for each is what it wants.
	briefRun   = time.Second
	firstPause = 25 * time.Millisecond
	maxPause   = time.Second
	// After this long a virtiofsd has said what it has to say at its start.
	settled = 300 * time.Millisecond
	// Stopping asks, then insists, and ends within a second.
	termGrace = 400 * time.Millisecond
	killGrace = 400 * time.Millisecond
)

// served is a share with everything that is open for it.
type served struct {
	*Share
	program  *program
	argv     []string
	source   int
	listener int
	socket   Socket
	confined bool
	made     bool
	// calls are those that the system call filter asks about; nil without.
	calls *os.File

	mu sync.Mutex
	// pid and pidfd are those of the running virtiofsd; 0 and -1 between two.
	pid, pidfd int
}

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
// that a retry does not mend are ErrConfig. Nothing of it is left when it
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
	fd, err := unix.Open(s.cfg.StateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
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

// open opens a share's source and binds its socket.
func (s *supervisor) open(share *Share) error {
	sv := &served{Share: share, source: -1, listener: -1, pidfd: -1}
	s.shares = append(s.shares, sv)
	rel, err := socketName(s.cfg.StateDir, share.Socket)
	if err != nil {
		return err
	}
	fd, w, err := openSource(s.cfg, share.Source)
	if err != nil {
		return err
	}
	sv.source, sv.confined, sv.made = fd, share.confined(w.inside), w.created
	if err := s.refuseStateDir(sv); err != nil {
		return err
	}
	sv.listener, sv.socket, err = listen(s.stateDir, rel, share.SocketGID)
	if err != nil {
		return err
	}
	if sv.made {
		s.log.line(share.Tag, "source "+share.Source+" was missing and is now an empty directory")
	}
	return nil
}

// refuseStateDir refuses to give a guest its own state directory to write: as
// root there it could replace the links that say what root trusts.
func (s *supervisor) refuseStateDir(sv *served) error {
	if sv.ReadOnly {
		return nil
	}
	source, err := inodeOf(sv.source)
	if err != nil {
		return err
	}
	for _, dir := range []string{s.cfg.StateDir, s.cfg.StateRoot} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return err
		}
		if source == (inode{uint64(st.Dev), st.Ino}) {
			return configErrorf("source %q is the state directory itself, and its guest could replace what the host trusts there; share a directory in it, or make the share readOnly", sv.Source)
		}
	}
	return nil
}

// command makes the share's command line.
func (s *supervisor) command(sv *served, found foundProgram) error {
	if found.err != nil {
		return found.err
	}
	sv.program = found.program
	argv, err := sv.Share.argv(found.program, s.cfg.MountPoint, sv.confined)
	sv.argv = argv
	return err
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

// close removes the sockets and closes what is open.
func (s *supervisor) close() {
	for _, sv := range s.shares {
		if sv.source >= 0 {
			closeFD(sv.source)
		}
		if sv.calls != nil {
			_ = sv.calls.Close()
		}
		if sv.listener < 0 {
			continue
		}
		if err := removeSocket(s.stateDir, sv.socket); err != nil {
			s.log.line(sv.Tag, fmt.Sprintf("remove socket %q: %v", sv.socket.Path, err))
		}
		closeFD(sv.listener)
	}
	if s.stateDir >= 0 {
		closeFD(s.stateDir)
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

// keep runs the share's virtiofsd again and again, on a thread of its own: the
// mount namespace and the system call filter are the thread's, the programs it
// starts inherit them, and they are killed with it.
func (s *supervisor) keep(ctx context.Context, sv *served) error {
	started := sync.OnceFunc(s.starting.Done)
	defer started()
	if err := s.confine(sv); err != nil {
		return shareError(sv.Tag, err)
	}
	var pace pacer
	for ctx.Err() == nil {
		begin := time.Now()
		client, fault := s.once(ctx, sv, started)
		if ctx.Err() != nil {
			return nil
		}
		ran := time.Since(begin)
		delay, giveUp := pace.after(fault, ran)
		if giveUp {
			return shareError(sv.Tag, fmt.Errorf("virtiofsd failed %d times in a row, at last: %w", maxFailures, fault))
		}
		if fault != nil {
			s.log.line(sv.Tag, fmt.Sprintf("virtiofsd failed, next try in %v: %v", delay, fault))
		}
		if fault != nil && (client || ran >= goodRun) {
			s.lost(sv)
		}
		pause(ctx, delay)
	}
	return nil
}

// lost tells that a share's client is without it.
func (s *supervisor) lost(sv *served) {
	s.log.line(sv.Tag, "the guest has lost this share until its VM is restarted: hypervisors do not connect to another virtiofsd")
	if s.cfg.Lost == nil {
		return
	}
	// On another thread: this one has the share's mounts and filter.
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.cfg.Lost(sv.Tag)
	}()
	<-done
}

// confine prepares the thread.
func (s *supervisor) confine(sv *served) error {
	if err := mountShare(sv.source, s.cfg.MountPoint, sv.ReadOnly, sv.confined); err != nil {
		return err
	}
	if !sv.confined {
		return nil
	}
	var err error
	if sv.calls, err = installFilter(); err != nil {
		return fmt.Errorf("keep set-user-ID files out of the share: %w", err)
	}
	if sv.calls != nil {
		go judge(sv.calls, func(text string) { s.log.line(sv.Tag, text) })
	}
	return nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pacer decides how long to wait before the next virtiofsd.
type pacer struct{ failures, brief int }

// after is told how a virtiofsd ended, nil for well, and how long it ran. A
// client that left after a normal run finds the next one at once.
func (p *pacer) after(fault error, ran time.Duration) (delay time.Duration, giveUp bool) {
	if ran >= goodRun {
		p.failures = 0
	}
	if fault != nil {
		p.failures++
		return firstDelay << (p.failures - 1), p.failures >= maxFailures
	}
	p.failures = 0
	if ran >= briefRun {
		p.brief = 0
		return 0, false
	}
	delay = min(firstPause<<p.brief, maxPause)
	p.brief = min(p.brief+1, 10)
	return delay, false
}

// once starts the share's virtiofsd and returns when it and its children are
// gone: a nil error where it ended well, which it does when its client left, and
// whether it said that it had one. It calls started once virtiofsd runs.
func (s *supervisor) once(ctx context.Context, sv *served, started func()) (client bool, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("make a pipe for its output: %w", err)
	}
	defer func() { _ = out.Close() }()
	pid, err := sv.start(in)
	_ = in.Close()
	if err != nil {
		return false, fmt.Errorf("execute %q: %w", sv.program.path, err)
	}
	started()
	// A stop that came before the process could be signalled is sent again.
	if ctx.Err() != nil {
		s.signal(unix.SIGTERM)
	}
	var last tail
	var connected atomic.Bool
	read := make(chan struct{})
	go func() {
		copyLines(out, func(line string) {
			if strings.Contains(line, clientLine) {
				connected.Store(true)
			}
			last.add(line)
			s.log.line(sv.Tag, line)
		})
		close(read)
	}()
	status, err := wait(pid)
	sv.ended()
	// The output ends with the last process that has it: virtiofsd's sandboxed
	// child is gone by then, too.
	select {
	case <-read:
	case <-time.After(killGrace):
		s.killOrphans()
	}
	if err != nil {
		return connected.Load(), fmt.Errorf("wait for it: %w", err)
	}
	return connected.Load(), explain(status, last.take())
}

// start executes virtiofsd with the listening socket.
func (sv *served) start(output *os.File) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	sv.mu.Lock()
	defer sv.mu.Unlock()
	//nolint:gosec // foreign.OnlyRoots: only root can change the program, and the arguments are the trusted package's
	pid, err := syscall.ForkExec(sv.program.path, sv.argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "RUST_LOG_STYLE=never"},
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd(), uintptr(sv.listener)},
		// virtiofsd does the same for its own child.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, PidFD: &sv.pidfd},
	})
	sv.pid = pid
	if err != nil {
		sv.pid, sv.pidfd = 0, -1
	}
	return pid, err
}

// ended forgets the process.
func (sv *served) ended() {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	closeFD(sv.pidfd)
	sv.pid, sv.pidfd = 0, -1
}

// wait waits for one child.
func wait(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		return status, err
	}
}

// explain turns an exit status into an error, nil for success.
func explain(status unix.WaitStatus, output string) error {
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	how := fmt.Sprintf("exit status %d", status.ExitStatus())
	if status.Signaled() {
		how = "killed by " + unix.SignalName(status.Signal())
	}
	if output == "" {
		return errors.New(how)
	}
	return fmt.Errorf("%s: %s", how, output)
}
