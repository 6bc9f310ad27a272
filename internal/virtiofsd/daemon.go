package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
	"microvm/internal/virtiofsd/seccomp"
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
)

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
	if sv.calls, err = seccomp.Install(); err != nil {
		return fmt.Errorf("keep set-user-ID files out of the share: %w", err)
	}
	if sv.calls != nil {
		go s.judge(sv)
	}
	return nil
}

// judge decides on the modes that the share's guest asks for, and logs those that
// it refuses.
func (s *supervisor) judge(sv *served) {
	var limit limiter
	err := seccomp.Judge(sv.calls, func(mode uint32) {
		if limit.ok() {
			s.log.line(sv.Tag, fmt.Sprintf("the guest asked for file mode %04o: refused, since set-user-ID and set-group-ID files would count on the host", mode))
		}
	})
	if err != nil {
		s.log.line(sv.Tag, "watch mode changes: "+err.Error())
	}
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
	safepath.Close(sv.pidfd)
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

// killOrphans ends what a virtiofsd left behind when it was killed: children
// that came to this process as their reaper and are no virtiofsd of its own.
// While it looks, no virtiofsd can be started.
func (s *supervisor) killOrphans() {
	own := map[int]bool{}
	for _, sv := range s.shares {
		sv.mu.Lock()
		defer sv.mu.Unlock()
		own[sv.pid] = true
	}
	for _, pid := range children() {
		if own[pid] {
			continue
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = wait(pid)
	}
}

// children are the processes whose parent this one is, proc_pid_task(5).
func children() []int {
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
