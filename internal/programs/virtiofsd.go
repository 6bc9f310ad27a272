package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/virtiofsd"
)

// Virtiofsd is microvm-virtiofsd [up] NAME, which serves the VM's shares until
// SIGTERM, and microvm-virtiofsd down NAME, which removes the sockets of one
// that was killed.
func Virtiofsd(args []string, host statedir.Host, stderr io.Writer) int {
	program := unit.Virtiofsd.Program
	if len(args) == 1 && !strings.HasPrefix(args[0], "-") {
		args = []string{"up", args[0]}
	}
	t, err := parse(program, args, host)
	if err != nil {
		return exit.Report(stderr, program, t.vm.Name, err)
	}
	if t.verb == "down" {
		return exit.Report(stderr, program, t.vm.Name, virtiofsdDown(t.vm))
	}
	return exit.Report(stderr, program, t.vm.Name, virtiofsdUp(t, stderr))
}

func virtiofsdUp(t target, stderr io.Writer) error {
	// It waits nearly all the time; more threads would only cost memory.
	runtime.GOMAXPROCS(1)
	plan, err := t.plan()
	if err != nil {
		return err
	}
	cfg, err := virtiofsdConfig(t.vm, plan, stderr)
	if err != nil {
		return err
	}
	// The record makes the directory that the shares are mounted on.
	if err := virtiofsdDown(t.vm); err != nil {
		return err
	}
	if err := t.vm.WriteRecord(unit.Virtiofsd.Record, []virtiofsd.Socket{}); err != nil {
		return err
	}
	cfg.Others = func() ([]virtiofsd.Writable, error) { return writtenByOthers(t.vm) }
	cfg.Bound = func(s []virtiofsd.Socket) error { return t.vm.WriteRecord(unit.Virtiofsd.Record, s) }
	cfg.Ready = func() error {
		return notifyManager(fmt.Sprintf("READY=1\nSTATUS=Serving %d shares\n", len(cfg.Shares)))
	}
	cfg.Lost = func(string) {
		if err := restartVM(t.vm); err != nil {
			_ = exit.Report(stderr, unit.Virtiofsd.Program, t.vm.Name, err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return errors.Join(virtiofsd.Run(ctx, cfg), t.vm.RemoveRecord(unit.Virtiofsd.Record))
}

// restartVM asks the service manager to restart the VM that has lost a share. That
// stops the VM first, while its other shares are still served, and then restarts
// this unit, which is part of the VM's. A VM that is not up stays so. It asks by
// systemctl: D-Bus would stay in the memory of each supervisor, for what hardly
// ever happens.
func restartVM(vm statedir.VM) error {
	name := unit.VM(vm.Name)
	remedy := "restart it with: systemctl restart " + name
	// In the foreground somebody else waits for readiness.
	if !strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "/run/systemd/") {
		return errors.New("the VM runs without the service manager, and nobody restarts it; stop it, and run it again")
	}
	systemctl, err := exec.LookPath("systemctl")
	if err != nil {
		return fmt.Errorf("restart the VM: %w; %s", err, remedy)
	}
	ctx, cancel := context.WithTimeout(context.Background(), restartTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, systemctl, "--no-block", "try-restart", name) //nolint:gosec // the VM's name was validated
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("restart the VM: systemctl: %w: %s; %s", err, bytes.TrimSpace(out), remedy)
	}
	return nil
}

// restartTimeout bounds the request for a restart, not the restart.
const restartTimeout = 30 * time.Second

// virtiofsdDown removes the sockets that the record names, and the record.
func virtiofsdDown(vm statedir.VM) error {
	var sockets []virtiofsd.Socket
	found, err := vm.ReadRecord(unit.Virtiofsd.Record, &sockets)
	if err != nil {
		return err
	}
	if found {
		err = virtiofsd.RemoveSockets(vm.Dir(), sockets)
	} else {
		err = removeSupervisord(vm)
	}
	if err != nil {
		return err
	}
	return vm.RemoveRecord(unit.Virtiofsd.Record)
}

// removeSupervisord removes what microvm.nix's supervisord and its virtiofsds, which
// are gone, left of a run that they served: what has the names of supervisord in the
// directory where it ran, the sockets, and virtiofsd's locks on those.
func removeSupervisord(vm statedir.VM) error {
	if !vm.StartedByAnother() {
		return nil
	}
	plan, err := bootedPlan(vm)
	if err != nil || plan == nil {
		return err
	}
	left := []string{"supervisord.pid", "supervisord.log"}
	for _, s := range plan.Shares {
		if socket, here := s.SocketIn(vm.Dir()); here {
			left = append(left, socket, socket+".pid")
		}
	}
	return virtiofsd.RemoveLeft(vm.Dir(), left)
}

// virtiofsdConfig turns the plan's shares into plain values. A share whose socket is
// not in the VM's directory is left out: root makes nothing where others can, and
// takes nobody's socket away.
func virtiofsdConfig(vm statedir.VM, plan *hypervisor.Plan, log io.Writer) (virtiofsd.Config, error) {
	account, err := vm.Host.Account()
	if err != nil {
		return virtiofsd.Config{}, err
	}
	cfg := virtiofsd.Config{
		StateRoot:  vm.Host.StateDir,
		StateDir:   vm.Dir(),
		MountPoint: vm.RuntimeDir(),
		OwnerUID:   account.UID,
		OwnerGID:   account.GID,
		Log:        log,
	}
	for _, s := range plan.Shares {
		if _, here := s.SocketIn(vm.Dir()); !here {
			_ = exit.Report(log, "microvm-virtiofsd", vm.Name, fmt.Errorf("share %q: its socket %s is not in %s, so it is not served here\nhint: build the package with a socket in there, or start what serves it before the VM", s.Tag, s.Socket, vm.Dir()))
			continue
		}
		share := virtiofsd.Share{
			Tag: s.Tag, Source: s.Source, Socket: s.Socket, SocketGID: account.GID,
			Program: s.Virtiofsd, ReadOnly: s.ReadOnly, Cache: s.Cache,
			PosixACL: s.PosixACL, InodeFileHandles: s.InodeFileHandles,
			Threads: s.ThreadPoolSize, PassTag: s.PassTag, ExtraArgs: s.ExtraArgs,
		}
		if s.ThreadPoolNProc {
			share.Threads = runtime.NumCPU()
		}
		// A package without a plan says nothing of the group: the host's own.
		if s.SocketGroup != "" && s.SocketGroup != vm.Host.Group && (!plan.Foreign || plan.Programs != nil) {
			if share.SocketGID, err = lookupGroup(s.SocketGroup); err != nil {
				return cfg, fmt.Errorf("share %q: socket group: %w", s.Tag, err)
			}
		}
		cfg.Shares = append(cfg.Shares, share)
	}
	return cfg, nil
}

// writtenByOthers lists the directories that the guests of other VMs write, or
// will after their next start.
func writtenByOthers(vm statedir.VM) ([]virtiofsd.Writable, error) {
	names, err := vm.Host.Names()
	if err != nil {
		return nil, err
	}
	var all []virtiofsd.Writable
	for _, name := range names {
		if name == vm.Name {
			continue
		}
		other := statedir.VM{Host: vm.Host, Name: name}
		for _, open := range []func() (*runner.Package, error){other.Booted, other.Current} {
			written, err := writtenBy(other, open)
			if err != nil {
				return nil, fmt.Errorf("read the shares of VM %q: %w", name, err)
			}
			all = append(all, written...)
		}
	}
	return all, nil
}

// writtenBy lists the directories that a VM's guest writes with one of its
// packages; none where there is no such package.
func writtenBy(vm statedir.VM, open func() (*runner.Package, error)) ([]virtiofsd.Writable, error) {
	p, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return nil, err
	}
	var all []virtiofsd.Writable
	for _, s := range plan.Shares {
		if s.ReadOnly {
			continue
		}
		source := s.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(vm.Dir(), source)
		}
		all = append(all, virtiofsd.Writable{VM: vm.Name, Tag: s.Tag, Source: source})
	}
	return all, nil
}

// lookupGroup returns the id of a group.
func lookupGroup(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("%w; create the group or set virtiofsd.group to another", err)
	}
	return strconv.Atoi(g.Gid)
}

// notifyManager sends a state to the service manager, sd_notify(3), where one
// asked for it.
func notifyManager(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	// A leading "@" is an abstract address to x/sys as well.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: name}); err != nil {
		return fmt.Errorf("notify the service manager at %q: %w", name, err)
	}
	return nil
}
