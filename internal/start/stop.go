package start

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

// Stop is how long each stage of a stop may take.
type Stop struct {
	// Graceful is how long the guest has to go down.
	Graceful time.Duration
	// Again is after what time a guest that does not react is asked again: one
	// that still boots loses the first request.
	Again time.Duration
	// Login is how long a guest may take to let us in, where it is asked over SSH.
	Login time.Duration
	// Term is how long the hypervisor has after SIGTERM.
	Term time.Duration
}

// DefaultStop fits into the 90 s that the unit gives.
var DefaultStop = stopWithin(defaultTotal)

const defaultTotal = 90 * time.Second

// stopWithin divides the time that the service manager gives to a stop, so that
// the last stage is over before that ends. Where that is systemd.Infinity, the
// guest that was asked is waited for until it is down.
func stopWithin(total time.Duration) Stop {
	if total == systemd.Infinity {
		s := stopWithin(defaultTotal)
		s.Graceful, s.Login = total, time.Minute
		return s
	}
	term := min(5*time.Second, total/6)
	graceful := total - 3*term
	return Stop{Graceful: graceful, Again: 3 * time.Second, Login: graceful / 10, Term: term}
}

// Stop asks the guest of vm to go down and waits until target, its hypervisor,
// is gone: it never returns early, because the service manager kills what still
// runs then.
func (l *Launcher) Stop(ctx context.Context, vm statedir.VM, target *Process, times Stop) error {
	p, err := vm.Booted()
	if err != nil {
		return exit.Config(err)
	}
	defer func() { _ = p.Close() }()
	return l.StopPackage(ctx, p, vm.Dir(), target, times)
}

// StopPackage is Stop for a package by hand; dir is the state directory. A target
// of nil is a hypervisor that is gone already. It lets go of target.
func (l *Launcher) StopPackage(ctx context.Context, p *runner.Package, dir string, target *Process, times Stop) error {
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	if plan.Shutdown.Method == hypervisor.ShutdownScript && os.Geteuid() == 0 {
		return exit.Config(fmt.Errorf("%s brings a program of its own for the shutdown, which does not run as root; stop the VM with: microvm stop NAME, or as the user that runs it", p.Dir()))
	}
	return l.stopPlan(ctx, p, plan, dir, target, times)
}

func (l *Launcher) stopPlan(ctx context.Context, p *runner.Package, plan *hypervisor.Plan, dir string, target *Process, times Stop) error {
	var err error
	if ssh := plan.Shutdown.SSH; ssh != nil {
		// It is of no use to anybody without the guest that knows it.
		defer func() { _ = removeFiles(dir, unix.S_IFREG, []string{ssh.Key}) }()
	}
	if target == nil {
		return nil
	}
	defer target.release()
	s := &stopping{launcher: l, process: target, began: time.Now(), times: times}
	graceful, cancel := context.WithTimeout(ctx, times.Graceful)
	defer cancel()
	switch plan.Shutdown.Method {
	case hypervisor.ShutdownNone:
		l.logf("this VM cannot be asked to go down: %s", plan.Shutdown.Why)
	case hypervisor.ShutdownScript:
		err = s.script(graceful, filepath.Join(p.Dir(), runner.ShutdownProgram), dir)
	case hypervisor.ShutdownGuestOverSSH:
		err = s.askOverSSH(graceful, plan, dir)
	default:
		err = s.ask(graceful, plan.Shutdown, dir)
	}
	if err != nil {
		l.logf("%w", err)
	}
	// A request that failed, or was never made, is nothing to wait for.
	if s.exited() || err == nil && plan.Shutdown.Method != hypervisor.ShutdownNone && s.wait(graceful) {
		l.logf("the hypervisor exited after %s", s.elapsed())
		return nil
	}
	return s.force(ctx)
}

// Process is a hypervisor, held by a descriptor that cannot come to mean
// another process, pidfd_open(2).
type Process struct {
	pid, fd int
	// dead is closed when it is gone.
	dead <-chan struct{}
}

// HoldProcess returns nil where the process is gone already.
func HoldProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	dead, err := ended(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Process{pid: pid, fd: fd, dead: dead}, nil
}

// PID is its number.
func (p *Process) PID() int { return p.pid }

// release ends the hold.
func (p *Process) release() { _ = unix.Close(p.fd) }

// there says whether its number still is its own.
func (p *Process) there() bool {
	err := unix.PidfdSendSignal(p.fd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

func (p *Process) signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

type stopping struct {
	launcher *Launcher
	process  *Process
	began    time.Time
	times    Stop
}

func (s *stopping) elapsed() string {
	return fmt.Sprintf("%.1f s", time.Since(s.began).Seconds())
}

// exited says whether the process is gone.
func (s *stopping) exited() bool {
	select {
	case <-s.process.dead:
		return true
	default:
		return false
	}
}

// wait waits for the process to exit, until ctx ends, and says whether it did.
func (s *stopping) wait(ctx context.Context) bool {
	select {
	case <-s.process.dead:
		return true
	case <-ctx.Done():
		return s.exited()
	}
}

// ask sends the request, again and again until the guest reacts or the
// hypervisor is gone.
func (s *stopping) ask(ctx context.Context, how hypervisor.Shutdown, dir string) error {
	if how.Control == nil {
		return errors.New("the plan names no control socket")
	}
	s.launcher.logf("asking the guest to go down by %s", how.Method)
	trouble, pause := "", 500*time.Millisecond
	for attempt := 1; ; attempt++ {
		round, cancel := context.WithTimeout(ctx, s.times.Again)
		reacted, err := s.askOnce(round, how, dir)
		cancel()
		switch {
		case s.exited():
			return nil
		case reacted:
			s.launcher.logf("the guest goes down, %s after it was first asked", s.elapsed())
			return nil
		case over(ctx):
			return fmt.Errorf("the guest did not go down within %s, asked %d times by %s", s.elapsed(), attempt, how.Method)
		case err == nil:
			s.launcher.logf("the guest has not reacted to %s after %s; asking again", how.Method, s.elapsed())
			continue
		case err.Error() != trouble:
			trouble = err.Error()
			s.launcher.logf("asking the guest to go down: %w; trying again", err)
		}
		// The socket is not there yet, or answers late.
		s.pause(ctx, pause)
		pause = min(2*pause, s.times.Again)
	}
}

// over says whether ctx has ended. Its own timer may be later than that of a
// connection with the same deadline.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// pause keeps a control socket that fails at once from being hammered.
func (s *stopping) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.process.dead:
	case <-ctx.Done():
	}
}

// askOnce sends one request and waits for the guest to react to it: the
// hypervisor reports that, or exits.
func (s *stopping) askOnce(ctx context.Context, how hypervisor.Shutdown, dir string) (reacted bool, err error) {
	client, err := control.Open(ctx, *how.Control, dir)
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
	ctx, cancel := s.untilExit(ctx)
	defer cancel()
	return client.AwaitShutdown(ctx) == nil || s.exited(), nil
}

// untilExit returns a context that ends with ctx, and when the process is gone.
func (s *stopping) untilExit(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.process.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// script runs a foreign package's own program, as we are: unprivileged. What
// it prints goes to the log.
func (s *stopping) script(ctx context.Context, program, dir string) error {
	cmd := exec.CommandContext(ctx, program) //nolint:gosec // unprivileged, as the package's microvm-run
	cmd.Dir = dir
	log := &lineLog{launcher: s.launcher, prefix: "microvm-shutdown: "}
	cmd.Stdout, cmd.Stderr = log, log
	// What it left running may hold its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-s.process.dead:
		// Some such programs wait on the socket of a hypervisor that is gone.
		_ = cmd.Process.Kill()
		<-done
		return nil
	case err := <-done:
		log.flush()
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("%s: %w", program, err)
		}
		return nil
	}
}

// lineLog logs what a program prints, line by line.
type lineLog struct {
	launcher *Launcher
	prefix   string
	partial  []byte
}

const maxLogLine = 1024

// Write implements io.Writer.
func (l *lineLog) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		end := bytes.IndexByte(l.partial, '\n')
		if end < 0 && len(l.partial) < maxLogLine {
			return len(p), nil
		}
		if end < 0 {
			end = len(l.partial) - 1
		}
		l.log(l.partial[:end+1])
		l.partial = l.partial[end+1:]
	}
}

func (l *lineLog) flush() {
	l.log(l.partial)
	l.partial = nil
}

func (l *lineLog) log(line []byte) {
	if text := strings.TrimSpace(string(line)); text != "" {
		l.launcher.logf("%s%s", l.prefix, text)
	}
}

// force ends a hypervisor whose guest does not go down.
func (s *stopping) force(ctx context.Context) error {
	s.launcher.logf("sending SIGTERM to the hypervisor after %s", s.elapsed())
	if err := s.process.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("send SIGTERM to process %d: %w", s.process.pid, err)
	}
	term, cancel := context.WithTimeout(ctx, s.times.Term)
	defer cancel()
	if s.wait(term) {
		s.launcher.logf("the hypervisor exited after SIGTERM, %s after the guest was first asked", s.elapsed())
		return nil
	}
	s.launcher.logf("sending SIGKILL to the hypervisor after %s: it ignored SIGTERM", s.elapsed())
	if err := s.process.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("send SIGKILL to process %d: %w", s.process.pid, err)
	}
	<-s.process.dead
	return nil
}
