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

// foreground runs a VM without its units.
type foreground struct {
	c  *Command
	vm statedir.VM
	// undo holds the functions that undo what was done, in the order in which it was done.
	undo []func() error
}

// oneHelper is a helper's program, called in this process. That is safe: "up" and
// "down" run as root anyway, and take nothing from the package but its data.
type oneHelper struct {
	unit.Template
	run func(args []string, host statedir.Host, stderr io.Writer) int
}

// up does what the VM's helper units would do.
func (r *foreground) up(ctx context.Context) error {
	if err := r.vm.SetBooted(); err != nil {
		return err
	}
	r.undo = append(r.undo, r.vm.ClearBooted)
	plan, err := r.plan()
	if err != nil {
		return err
	}
	// A hypervisor that is killed leaves its files behind.
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
		// A helper that fails halfway has something to undo, too.
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

var errInterrupted = errors.New("interrupted before the VM was started")

// Hints of errors of the programs that this command runs.
const (
	seeAbove   = "see the messages above"
	incomplete = "is the microvm installation complete?"
)

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
		return exit.WithHint(fmt.Errorf("bringing %s the %s of %s failed", verb, h.What, r.vm.Name), seeAbove)
	}
	return nil
}

// down undoes what was done, in reverse order. It goes on after errors, and returns all
// of them.
func (r *foreground) down() error {
	var errs error
	for i := len(r.undo) - 1; i >= 0; i-- {
		errs = errors.Join(errs, r.undo[i]())
	}
	return errs
}

// sharesReady is how long the shares may take to be served.
const sharesReady = 30 * time.Second

// virtiofsd starts the program of the VM's virtiofsd unit, and waits until it reports
// that the shares are served.
func (r *foreground) virtiofsd(ctx context.Context) error {
	dir, err := os.MkdirTemp("/tmp", "microvm-run-") // not in TMPDIR, as the path of a socket must be short
	if err != nil {
		return fmt.Errorf("create directory for the notification socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	report, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen on the notification socket: %w", err)
	}
	defer func() { _ = report.Close() }()
	cmd := r.child(unit.Virtiofsd.Program, r.vm.Name)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	if err := cmd.Start(); err != nil {
		return exit.WithHint(fmt.Errorf("serve the shares of %s: %w", r.vm.Name, err), incomplete)
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
			return exit.WithHint(fmt.Errorf("serving the shares of %s failed", r.vm.Name), seeAbove)
		}
	}
}

// child returns a command for one of our own programs. ctrl-c on the terminal does not
// reach it, and it is terminated when we exit.
func (r *foreground) child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(r.c.Host.LibexecDir, name), args...) //nolint:gosec // our own
	cmd.Stdout, cmd.Stderr = r.c.Stdout, r.c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// hypervisor runs the hypervisor, as the hypervisors' user, until it exits.
func (r *foreground) hypervisor(ctx context.Context, interactive bool) error {
	account, err := r.vm.Host.Account()
	if err != nil {
		return err
	}
	credential := account.Credential()
	// As LimitMEMLOCK= of the unit: vfio and virtio-mem pin the guest's memory.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	cmd := r.child(unit.Main.Program, "run", r.vm.Name)
	cmd.SysProcAttr.Credential = credential
	cmd.Env = asUnit(r.vm.Host, os.Environ())
	if interactive {
		// In our own process group, or it could not read from the terminal.
		cmd.Stdin, cmd.SysProcAttr.Setpgid = r.c.Stdin, false
		term.Say(r.c.Stderr, r.vm.Name, "the terminal is now the guest's console, which also gets ctrl-c")
		term.Say(r.c.Stderr, r.vm.Name, "hint: shut the VM down in the guest, or elsewhere with: microvm shutdown %s", r.vm.Name)
	} else {
		term.Say(r.c.Stderr, r.vm.Name, "press ctrl-c to stop the VM")
		term.Say(r.c.Stderr, r.vm.Name, "hint: attach to its console with: microvm console %s", r.vm.Name)
	}
	if err := cmd.Start(); err != nil {
		return exit.WithHint(fmt.Errorf("run %s: %w", r.vm.Name, err), incomplete)
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
		return exit.WithHint(fmt.Errorf("the hypervisor of %s failed: %w", r.vm.Name, err), seeAbove)
	}
	return err
}

// passed are the variables of the caller's environment that a hypervisor gets: for its
// windows, its locale and our own settings. It must not see the rest of root's.
var passed = []string{"TERM", "COLORTERM", "LANG", "LC_", "TZ", "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "MICROVM_"}

// asUnit returns the environment of a program that runs as the hypervisors' user, as a
// unit would set it, systemd.exec(5). ours is our own environment.
func asUnit(host statedir.Host, ours []string) []string {
	env := []string{"PATH=" + foreign.UnitPath, "HOME=" + host.StateDir, "USER=" + host.User, "LOGNAME=" + host.User, "SHELL=/usr/sbin/nologin"}
	for _, v := range ours {
		name, _, _ := strings.Cut(v, "=")
		for _, s := range passed {
			if name == s || strings.HasSuffix(s, "_") && strings.HasPrefix(name, s) {
				env = append(env, v)
				break
			}
		}
	}
	return env
}

// stop asks the guest to shut down, with the program that ExecStop= of the unit runs, as
// the hypervisors' user: a package may have its own program for it. It returns what is
// received from ended. A second signal kills the hypervisor.
func (r *foreground) stop(pid int, credential *syscall.Credential, ended <-chan error) error {
	term.Say(r.c.Stderr, r.vm.Name, "shutting down the guest")
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(again)
	cmd := r.child(unit.Main.Program, "stop", r.vm.Name)
	cmd.Env = append(asUnit(r.vm.Host, os.Environ()), "MAINPID="+strconv.Itoa(pid))
	cmd.SysProcAttr.Credential = credential
	if err := cmd.Start(); err != nil {
		return errors.Join(exit.WithHint(fmt.Errorf("shut down the guest of %s: %w", r.vm.Name, err), incomplete), unix.Kill(pid, unix.SIGKILL))
	}
	asked := make(chan error, 1)
	go func() { asked <- cmd.Wait() }()
	select {
	case err := <-ended:
		<-asked
		return err
	case <-again:
		term.Say(r.c.Stderr, r.vm.Name, "killing the hypervisor")
		_ = unix.Kill(pid, unix.SIGKILL)
		<-asked
		return <-ended
	}
}

// unitUmask is UMask= of microvm@.service.
const unitUmask = 0o027
