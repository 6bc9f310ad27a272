package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/programs"
	"microvm/internal/start"
	"microvm/internal/statedir"
	"microvm/internal/term"
	"microvm/internal/unit"
)

// foreground is a VM that is run without its units.
type foreground struct {
	c  *Command
	vm statedir.VM
	// undo holds what takes back what was done, in the order it was done.
	undo []func() error
}

// oneHelper is a helper's program, called in this process: both up and down are
// root's and touch the package's data only.
type oneHelper struct {
	unit.Template
	run func(args []string, host statedir.Host, stderr io.Writer) int
}

// up does what the VM's helper units would.
func (r *foreground) up(ctx context.Context) error {
	if err := r.vm.SetBooted(); err != nil {
		return err
	}
	r.undo = append(r.undo, r.vm.ClearBooted)
	plan, err := r.plan()
	if err != nil {
		return err
	}
	// A hypervisor that is killed takes nothing away.
	r.undo = append(r.undo, func() error { return start.CleanUp(r.vm.Dir(), plan) })
	for _, h := range []oneHelper{
		{unit.Taps, programs.Tap},
		{unit.Macvtaps, programs.Macvtap},
		{unit.PCI, programs.PCI},
	} {
		if !h.Needs(plan) {
			continue
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		// One that failed halfway has something to take back as well.
		r.undo = append(r.undo, func() error { return r.call(h, "down") })
		if err := r.call(h, "up"); err != nil {
			return err
		}
	}
	if !unit.Virtiofsd.Needs(plan) {
		return nil
	}
	return r.virtiofsd(ctx)
}

var errInterrupted = errors.New("interrupted; run it again to start the VM")

func (r *foreground) plan() (*hypervisor.Plan, error) {
	p, err := r.vm.Pinned()
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	return p.Plan()
}

func (r *foreground) call(h oneHelper, verb string) error {
	if h.run([]string{verb, r.vm.Name}, r.vm.Host, r.c.Stderr) != exit.CodeOK {
		return fmt.Errorf("the %s of %s cannot be brought %s; fix what it says above, and run it again", h.What, r.vm.Name, verb)
	}
	return nil
}

// down takes back what was done, the last first, whatever fails on the way.
func (r *foreground) down() error {
	var errs error
	for i := len(r.undo) - 1; i >= 0; i-- {
		errs = errors.Join(errs, r.undo[i]())
	}
	return errs
}

// sharesReady is how long the shares may take.
const sharesReady = 30 * time.Second

// virtiofsd serves the VM's shares by the program that the unit runs, and waits
// until it says that it does.
func (r *foreground) virtiofsd(ctx context.Context) error {
	dir, err := os.MkdirTemp("/tmp", "microvm-run-") // a socket's path is short, wherever TMPDIR is
	if err != nil {
		return fmt.Errorf("make a directory for the shares' report: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	report, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen for the shares' report: %w", err)
	}
	defer func() { _ = report.Close() }()
	cmd := r.child(unit.Virtiofsd.Program, r.vm.Name)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("serve the shares of %s: %w; is microvm installed whole?", r.vm.Name, err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		_ = report.SetReadDeadline(time.Unix(1, 0))
	}()
	r.undo = append(r.undo, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return r.call(oneHelper{unit.Virtiofsd, programs.Virtiofsd}, "down")
	})
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = report.SetReadDeadline(time.Now().Add(sharesReady))
	buf := make([]byte, 4096)
	for {
		n, err := report.Read(buf)
		if err == nil && strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			return fmt.Errorf("the shares of %s cannot be served; fix what it says above, and run it again", r.vm.Name)
		}
	}
}

// child is a program of ours that a ctrl-c on the terminal does not reach, and
// that does not outlive us.
func (r *foreground) child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(r.c.Host.LibexecDir, name), args...) //nolint:gosec // our own
	cmd.Stdout, cmd.Stderr = r.c.Stdout, r.c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// hypervisor runs the hypervisor until it ends, as its own user.
func (r *foreground) hypervisor(ctx context.Context, interactive bool) error {
	account, err := r.vm.Host.Account()
	if err != nil {
		return err
	}
	credential := account.Credential()
	// As the unit does: vfio and virtio-mem pin the guest's memory.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	cmd := r.child(unit.Main.Program, "run", r.vm.Name)
	cmd.SysProcAttr.Credential = credential
	cmd.Env = asUnit(r.vm.Host, os.Environ())
	if interactive {
		// In our own group, or it could not read from the terminal.
		cmd.Stdin, cmd.SysProcAttr.Setpgid = r.c.Stdin, false
		term.Say(r.c.Stderr, r.vm.Name, "the terminal is the guest's now, ctrl-c included; end it in the guest, or elsewhere with: microvm shutdown %s", r.vm.Name)
	} else {
		term.Say(r.c.Stderr, r.vm.Name, "end it with ctrl-c; its console is at: microvm console %s", r.vm.Name)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w; is microvm installed whole?", r.vm.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = r.stop(cmd.Process.Pid, credential, ended)
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return fmt.Errorf("the hypervisor of %s ended with %w; it says why above", r.vm.Name, err)
	}
	return err
}

// shown are the variables of the caller's that a hypervisor gets: for its windows,
// its words and our own settings. All else of root's is none of its business.
var shown = []string{"TERM", "COLORTERM", "LANG", "LC_", "TZ", "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "MICROVM_"}

// asUnit is the environment of a program of the hypervisors' account, as its unit
// would have it, systemd.exec(5).
func asUnit(host statedir.Host, ours []string) []string {
	env := []string{"PATH=" + foreign.UnitPath, "HOME=" + host.StateDir, "USER=" + host.User, "LOGNAME=" + host.User, "SHELL=/usr/sbin/nologin"}
	for _, v := range ours {
		name, _, _ := strings.Cut(v, "=")
		for _, s := range shown {
			if name == s || strings.HasSuffix(s, "_") && strings.HasPrefix(name, s) {
				env = append(env, v)
				break
			}
		}
	}
	return env
}

// stop asks the guest to go down by the program that the unit runs for that,
// as the hypervisors' user: a package may have a program of its own for it. A
// second signal kills the hypervisor.
func (r *foreground) stop(pid int, credential *syscall.Credential, ended <-chan error) error {
	term.Say(r.c.Stderr, r.vm.Name, "asking the guest to go down")
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(again)
	cmd := r.child(unit.Main.Program, "stop", r.vm.Name)
	cmd.Env = append(asUnit(r.vm.Host, os.Environ()), "MAINPID="+strconv.Itoa(pid))
	cmd.SysProcAttr.Credential = credential
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("ask the guest of %s to go down: %w; is microvm installed whole?", r.vm.Name, err), unix.Kill(pid, unix.SIGKILL))
	}
	asked := make(chan error, 1)
	go func() { asked <- cmd.Wait() }()
	select {
	case err := <-ended:
		<-asked
		return err
	case <-again:
		term.Say(r.c.Stderr, r.vm.Name, "ending it at once")
		_ = unix.Kill(pid, unix.SIGKILL)
		<-asked
		return <-ended
	}
}

// unitUmask is UMask= of microvm@.service.
const unitUmask = 0o027
