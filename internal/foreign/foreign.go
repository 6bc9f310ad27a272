// Package foreign runs programs that are not ours and that something else names:
// a spec, a package, PATH. Each is bounded in time and in what it prints, whatever
// it starts, and none of them runs as root unless only root can replace it and the
// caller says so.
package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTimeout is a program that was ended because it took too long.
var ErrTimeout = errors.New("it did not end in time")

// nobody is the overflow user of the kernel, whom nothing belongs to.
const nobody = 65534

// slow is how long a program may take before Slow is called.
const slow = time.Second

// pipeDelay is how long what a program left behind may hold its output.
const pipeDelay = 200 * time.Millisecond

// DefaultOutput bounds what is kept of a program's output.
const DefaultOutput = 1 << 20

// Command is one call of a program.
type Command struct {
	// Path is absolute.
	Path string
	Args []string
	// Stdin is empty where it is nil.
	Stdin io.Reader
	// Dir is the working directory; empty means /.
	Dir string
	// As is whom root runs it as; nil is the caller himself.
	As *syscall.Credential
	// Apart takes from a program that root runs the sight of the host's processes
	// and network, and ends with it all that it started.
	Apart bool
	// Limit is how long it may take.
	Limit time.Duration
	// MaxOutput bounds standard output; 0 means DefaultOutput. What is more is read
	// and forgotten.
	MaxOutput int
	// Slow is called once where it takes longer than a second; nil is for no one.
	Slow func()
}

// environment is all that a program is told of the caller's: what it prints must
// not depend on who asks.
var environment = []string{"PATH=" + UnitPath, "LC_ALL=C", "HOME=/"}

// Run runs the program and returns what it printed on its standard output and on
// its standard error. It returns when the program has ended, or its time is over:
// what it started does not keep it.
func (c *Command) Run(ctx context.Context) (out, log []byte, err error) {
	if c.Slow != nil {
		timer := time.AfterFunc(slow, c.Slow)
		defer timer.Stop()
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with this goroutine, as it is never unlocked, and with it
		// what the program inherits from it.
		runtime.LockOSThread()
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			err = fmt.Errorf("forbid new privileges: %w", err)
			return
		}
		out, log, err = c.run(ctx, c.apart())
		// No namespaces here, as in a container; or no more of them, or none at all.
		none := errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL)
		if c.apart() != 0 && none {
			out, log, err = c.run(ctx, 0)
		}
	}()
	<-done
	if err != nil && ctx.Err() != nil {
		err = ErrTimeout
		if errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err()
		}
	}
	return out, log, err
}

func (c *Command) apart() uintptr {
	if !c.Apart || os.Geteuid() != 0 {
		return 0
	}
	// The first process of a PID namespace ends all others when it ends.
	return unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC
}

func (c *Command) run(ctx context.Context, namespaces uintptr) (out, log []byte, err error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...) //nolint:gosec // what this package is for
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, environment, c.Stdin
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	// A session of its own, to end all of it, and without a terminal to write to.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = c.As
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = pipeDelay
	stdout, stderr := &bounded{most: c.MaxOutput}, &bounded{most: DefaultOutput}
	if stdout.most == 0 {
		stdout.most = DefaultOutput
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	// While it is not reaped its number is nobody else's, and what it left in its
	// session can be ended.
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	err = cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // one that left the session holds a pipe
		err = nil
	}
	return stdout.kept.Bytes(), stderr.kept.Bytes(), err
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	kept bytes.Buffer
	most int
}

// Write implements io.Writer.
func (b *bounded) Write(data []byte) (int, error) {
	_, _ = b.kept.Write(data[:min(len(data), b.most-b.kept.Len())])
	return len(data), nil
}

// As is whom root runs a program as that something else names: the account, which
// may be nil, where only root can replace the program, and else nobody. What
// somebody else put there is not to reach what the account has: the images of all
// VMs. It is nil where the caller is not root.
func As(program string, account *syscall.Credential) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	if account != nil && OnlyRoots(program) == nil {
		return &syscall.Credential{Uid: account.Uid, Gid: account.Gid}
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

// UnitPath is where a unit's programs are: the PATH that systemd gives to services,
// and NixOS's.
const UnitPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"

// InUnit finds a program where a VM's unit will, whatever the caller's PATH is. An
// absolute path is itself.
func InUnit(name string) (string, error) {
	if filepath.IsAbs(name) {
		return exec.LookPath(name)
	}
	for _, dir := range filepath.SplitList(UnitPath) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}
