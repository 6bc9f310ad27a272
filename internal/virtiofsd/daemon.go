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
	// firstDelay is the delay after the first failure; it doubles with each further
	// one in a row. After maxFailures, 3.1 s after the first, the share is given up.
	firstDelay  = 100 * time.Millisecond
	maxFailures = 6
	// A run of this length resets the count of failures.
	goodRun = 10 * time.Second
	// A client that disconnects sooner than this is slowed down, to one connection
	// in maxPause: each connection costs the host a new process.
	briefRun   = time.Second
	firstPause = 25 * time.Millisecond
	maxPause   = time.Second
)

// keep runs the share's virtiofsd and restarts it whenever it exits, until ctx is done
// or the share is given up. It must be called on a thread of its own: the mount
// namespace and the seccomp filter belong to the thread. Programs that it starts
// inherit both and are killed when the thread ends.
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
			return shareError(sv.Tag, fmt.Errorf("virtiofsd failed %d times in a row: %w", maxFailures, fault))
		}
		if fault != nil {
			s.log.line(sv.Tag, fmt.Sprintf("virtiofsd failed, retrying in %v: %v", delay, fault))
		}
		if fault != nil && (client || ran >= goodRun) {
			s.lost(sv)
		}
		pause(ctx, delay)
	}
	return nil
}

// lost logs that the share's client has lost its connection, and calls Config.Lost.
func (s *supervisor) lost(sv *served) {
	s.log.line(sv.Tag, "the guest has lost this share until its VM is restarted, as hypervisors do not reconnect")
	if s.cfg.Lost == nil {
		return
	}
	// Lost runs on another thread: this one has the share's mounts and filter.
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.cfg.Lost(sv.Tag)
	}()
	<-done
}

// confine sets up the mount namespace and the seccomp filter of the calling thread.
func (s *supervisor) confine(sv *served) error {
	if err := mountShare(sv.source, s.cfg.MountPoint, sv.ReadOnly, sv.confined); err != nil {
		return err
	}
	if !sv.confined {
		return nil
	}
	var err error
	if sv.calls, err = seccomp.Install(); err != nil {
		return fmt.Errorf("confine virtiofsd: %w", err)
	}
	if sv.calls != nil {
		go s.judge(sv)
	}
	return nil
}

// judge answers the system calls that the share's filter reports, until the filter is
// closed, and logs the refused modes.
func (s *supervisor) judge(sv *served) {
	var limit limiter
	err := seccomp.Judge(sv.calls, func(mode uint32) {
		if limit.ok() {
			s.log.line(sv.Tag, fmt.Sprintf("the guest asked for file mode %04o: refused, as set-user-ID and set-group-ID also apply on the host", mode))
		}
	})
	if err != nil {
		s.log.line(sv.Tag, "check file modes: "+err.Error())
	}
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pacer computes the delay before the next virtiofsd.
type pacer struct{ failures, brief int }

// after returns the delay after a virtiofsd that has ended with fault, nil for a
// success, and ran for the given time, and reports whether to give up. There is no
// delay after a normal run.
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

// once runs the share's virtiofsd once and returns when it and its children have
// exited. client reports whether a client had connected. A nil error means success,
// which is how virtiofsd exits when its client disconnects. started is called once
// virtiofsd runs.
func (s *supervisor) once(ctx context.Context, sv *served, started func()) (client bool, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("create pipe for virtiofsd's output: %w", err)
	}
	defer func() { _ = out.Close() }()
	pid, err := sv.start(in)
	_ = in.Close()
	if err != nil {
		return false, fmt.Errorf("start %q: %w", sv.program.path, err)
	}
	started()
	// A stop that came before the process had started did not reach it.
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
	sv.release()
	// The output ends when the last process with it exits, virtiofsd's sandboxed
	// child included.
	select {
	case <-read:
	case <-time.After(killGrace):
		s.killOrphans()
	}
	if err != nil {
		return connected.Load(), fmt.Errorf("wait for virtiofsd: %w", err)
	}
	return connected.Load(), explain(status, last.take())
}

// start starts virtiofsd with the listening socket and returns its process id.
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
		// virtiofsd sets the same signal for its own child.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, PidFD: &sv.pidfd},
	})
	sv.pid = pid
	if err != nil {
		sv.pid, sv.pidfd = 0, -1
	}
	return pid, err
}

// release closes the descriptor of a process that has been waited for.
func (sv *served) release() {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	safepath.Close(sv.pidfd)
	sv.pid, sv.pidfd = 0, -1
}

// wait waits for the child pid and returns its status.
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

// explain returns an error for an exit status, with the last output; nil for success.
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

// killOrphans kills what a killed virtiofsd left behind: the children of this process,
// their subreaper, that are not one of its own virtiofsd. It holds the lock of every
// share, so that none is started meanwhile.
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

// children returns the ids of this process's children, proc_pid_task(5).
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
