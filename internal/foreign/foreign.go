// Package foreign runs programs that are not ours and that a spec, a package or PATH
// names. Each is limited in time and output, including what it starts. None runs as
// root unless only root can replace it and the caller asks for it.
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

// ErrTimeout means that a program was killed because it exceeded its Limit.
var ErrTimeout = errors.New("timed out")

// nobody is the kernel's overflow user, who owns no files.
const nobody = 65534

// slow is how long a program may take before Slow is called.
const slow = time.Second

// pipeDelay is how long Run waits for processes that the program left behind and
// that keep its output open.
const pipeDelay = 200 * time.Millisecond

// DefaultOutput is the most that is kept of a program's output, in bytes.
const DefaultOutput = 1 << 20

// Command is one call of a program.
type Command struct {
	// Path is absolute.
	Path string
	Args []string
	// Stdin is the standard input; nil means empty.
	Stdin io.Reader
	// Dir is the working directory; empty means /.
	Dir string
	// As are the credentials if the caller is root; nil means the caller's own.
	As *syscall.Credential
	// Apart puts the program into namespaces of its own if the caller is root: it sees
	// neither the host's processes nor its network, and all that it started is killed
	// when it exits.
	Apart bool
	// Limit is how long it may take.
	Limit time.Duration
	// MaxOutput limits standard output, in bytes; 0 means DefaultOutput. More output
	// is read and discarded.
	MaxOutput int
	// Slow is called once if the program takes longer than a second; it may be nil.
	Slow func()
}

// environment is the program's whole environment: its output must not depend on the
// caller's.
var environment = []string{"PATH=" + UnitPath, "LC_ALL=C", "HOME=/"}

// Run runs the program and returns its standard output and standard error. It
// returns when the program has exited or Limit is over, even if processes that the
// program started still run.
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
		// The thread is never unlocked, so it exits with this goroutine, and
		// no_new_privs does not stay behind in this process.
		runtime.LockOSThread()
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			err = fmt.Errorf("set no_new_privs: %w", err)
			return
		}
		out, log, err = c.run(ctx, c.apart())
		// EPERM: not permitted, as in a container. ENOSPC: the limit of namespaces is
		// reached. EINVAL: the kernel has none.
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

// apart returns the clone flags of the program.
func (c *Command) apart() uintptr {
	if !c.Apart || os.Geteuid() != 0 {
		return 0
	}
	// When the first process of a PID namespace exits, the kernel kills all others.
	return unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC
}

func (c *Command) run(ctx context.Context, namespaces uintptr) (out, log []byte, err error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...) //nolint:gosec // the purpose of this package
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, environment, c.Stdin
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	// A session of its own can be killed as a whole, and has no controlling terminal.
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
	// Until the program is reaped its process ID is not reused, so what it left in its
	// session can be killed by that ID.
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	err = cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // a process that left the session holds a pipe
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

// As returns the credentials with which root runs a program: those of account if
// only root can replace the program, else those of nobody, as a program that another
// user planted must not get at the images of all VMs, which account can read. A nil
// account means nobody. As returns nil if the caller is not root.
func As(program string, account *syscall.Credential) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	if account != nil && OnlyRoots(program) == nil {
		return &syscall.Credential{Uid: account.Uid, Gid: account.Gid}
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

// UnitPath is the PATH in which a unit's programs are found: the one that systemd
// sets for services, and NixOS's.
const UnitPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"

// InUnit returns the path at which a VM's unit finds a program, whatever the caller's
// PATH is. An absolute path is returned as it is.
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
