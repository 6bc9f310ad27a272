package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"microvm/internal/notify"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/virtiofsd"
)

// Virtiofsd is microvm-virtiofsd [up] NAME, which serves the VM's shares until SIGTERM,
// and microvm-virtiofsd down NAME, which removes the sockets of a process that was
// killed. It returns the exit code.
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
	// The process is idle nearly always; more threads would only cost memory.
	runtime.GOMAXPROCS(1)
	plan, err := t.plan()
	if err != nil {
		return err
	}
	cfg, err := virtiofsdConfig(t.vm, plan, stderr)
	if err != nil {
		return err
	}
	// Writing the record creates the directory that the shares are mounted on.
	if err := virtiofsdDown(t.vm); err != nil {
		return err
	}
	if err := t.vm.WriteRecord(unit.Virtiofsd.Record, []virtiofsd.Socket{}); err != nil {
		return err
	}
	cfg.Others = func() ([]virtiofsd.Writable, error) { return writtenByOthers(t.vm) }
	cfg.Bound = func(s []virtiofsd.Socket) error { return t.vm.WriteRecord(unit.Virtiofsd.Record, s) }
	cfg.Ready = func() error {
		return notify.Send(notify.Socket(), "READY=1", fmt.Sprintf("STATUS=Serving %d shares", len(cfg.Shares)))
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

// restartVM makes the service manager restart a VM that has lost a share. That stops
// the VM first, while its other shares are still served, and then restarts this unit,
// which is part of the VM's. A VM that is not up stays down. It runs systemctl: D-Bus
// would stay in the memory of each supervisor, for a rare event.
func restartVM(vm statedir.VM) error {
	name := unit.VM(vm.Name)
	failed := func(err error) error {
		return exit.WithHint(fmt.Errorf("restart the VM: %w", err), "restart it with: systemctl restart %s", name)
	}
	// In the foreground, the socket is that of microvm run.
	if !strings.HasPrefix(notify.Socket(), "/run/systemd/") {
		return exit.WithHint(errors.New("the VM runs without the service manager, so it is not restarted"), "stop it, and run it again")
	}
	systemctl, err := exec.LookPath("systemctl")
	if err != nil {
		return failed(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), restartTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, systemctl, "--no-block", "try-restart", name) //nolint:gosec // the VM's name was validated
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return failed(fmt.Errorf("systemctl: %w: %s", err, bytes.TrimSpace(out)))
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

// removeSupervisord removes what microvm.nix's supervisord and its virtiofsds left
// behind, after they have exited: supervisord's files in the VM's directory, the
// sockets, and virtiofsd's lock files of those.
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

// virtiofsdConfig converts the plan's shares to plain values. It leaves out, and logs,
// a share whose socket is not in the VM's directory: root must not create files where
// other users can, or replace another program's socket.
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
			_ = exit.Report(log, unit.Virtiofsd.Program, vm.Name, exit.WithHint(
				fmt.Errorf("share %q: socket %s is not in %s, so the share is not served here", s.Tag, s.Socket, vm.Dir()),
				"build the package with a socket in that directory, or start the share's server before the VM"))
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
		// A package without a plan names no group; its shares have the host's.
		if s.SocketGroup != "" && s.SocketGroup != vm.Host.Group && (!plan.Foreign || plan.Programs != nil) {
			if share.SocketGID, err = lookupGroup(s.SocketGroup); err != nil {
				return cfg, fmt.Errorf("share %q: socket group: %w", s.Tag, err)
			}
		}
		cfg.Shares = append(cfg.Shares, share)
	}
	return cfg, nil
}

// writtenByOthers returns the directories that the guests of other VMs can write to,
// now or after their next start.
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

// writtenBy returns the directories that a VM's guest can write to with the package
// that open returns; none if there is no such package.
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

// lookupGroup returns the ID of a group.
func lookupGroup(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, exit.WithHint(err, "create the group, or set virtiofsd.group to another one")
	}
	return strconv.Atoi(g.Gid)
}
