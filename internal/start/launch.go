// Package start starts and stops a VM's hypervisor, unprivileged: it makes
// the volumes, opens what the hypervisor is to inherit, starts the readiness
// child and then becomes the hypervisor, so that nothing of ours stays.
package start

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/printable"
	"microvm/internal/runner"
	"microvm/internal/safepath"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/wait"
)

// Launcher starts VMs.
type Launcher struct {
	// Stderr gets a line for each thing that takes time.
	Stderr io.Writer
	// Notify is the service manager's socket, or "".
	Notify string
	// ByHand says that a person runs the package, without units: what is missing
	// is made by the package's own scripts.
	ByHand bool
	// vm is whose unit this is.
	vm string
	// waits is how long this start waits for things; nil until it does.
	waits *wait.Patience
	// state is the VM's, where there is one.
	state *statedir.VM
	// look is the time between two looks at the progress of a start; 0 is lookPause.
	look time.Duration
	// preStarted is what the run of this program before preStart has left; nil where
	// there was none.
	preStarted *preStarted
}

// logf logs what it is given as fmt.Errorf takes it: the remedy of an error that is
// wrapped by %w comes along.
func (l *Launcher) logf(format string, args ...any) {
	who := program
	if l.ByHand {
		who = "microvm"
	}
	// The hypervisor, its guest and a package's program have a say in it.
	var lines strings.Builder
	for line := range strings.Lines(printable.Text(exit.Text(fmt.Errorf(format, args...)))) {
		lines.WriteString(who + ": " + strings.TrimRight(line, "\n") + "\n")
	}
	_, _ = io.WriteString(l.Stderr, lines.String())
}

// Start becomes the hypervisor of vm, with the package that microvm-set-booted@
// has pinned; it returns only on failure.
func (l *Launcher) Start(vm statedir.VM) error {
	// Credentials belong to a thread, and the one that executes the hypervisor
	// decides what that has.
	runtime.LockOSThread()
	l.state = &vm
	p, err := vm.Pinned()
	if errors.Is(err, fs.ErrNotExist) && vm.Exists() {
		return notPinned(vm)
	}
	if err != nil {
		return vm.PackageError(err)
	}
	if err := os.Chdir(vm.Dir()); err != nil {
		return fmt.Errorf("enter the state directory: %w", err)
	}
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	if err := checkHelpers(vm, plan); err != nil {
		return err
	}
	return l.Exec(p, vm.Name)
}

// notPinned says why microvm-set-booted@ has pinned nothing.
func notPinned(vm statedir.VM) error {
	p, err := vm.Current()
	if err != nil {
		return vm.PackageError(err)
	}
	_ = p.Close()
	pinner := unit.SetBooted.Of(vm.Name)
	return exit.WithHint(errors.New("no runner was pinned for this start"),
		"%s failed, see: journalctl -u %s", pinner, unit.Short(pinner))
}

// Exec becomes the hypervisor of package p, in the current directory; it
// returns only on failure. The calling goroutine has to hold its thread.
func (l *Launcher) Exec(p *runner.Package, vm string) error {
	l.vm = vm
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	if plan.Foreign {
		return l.execForeign(p, vm)
	}
	if err := l.preStart(p, plan); err != nil {
		return err
	}
	program, err := findProgram(plan.Argv[0])
	if err != nil {
		return exit.WithHint(fmt.Errorf("hypervisor %w", err), "install it, or correct %s.package in the spec", plan.Hypervisor)
	}
	if err := l.await(plan); err != nil {
		return err
	}
	l.sayVersion(plan)
	if err := l.check(p, plan, vm); err != nil {
		return err
	}
	s := &start{launcher: l, vm: vm, plan: plan, program: program, packageDir: p.Dir()}
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	return s.become()
}

// prepare does what has to be done before the hypervisor starts.
func (l *Launcher) prepare(plan *hypervisor.Plan) (*images, error) {
	// First: where the VM runs already, by hand say, it has its images, and its
	// sockets are in use.
	disks, err := l.volumes(".", plan)
	if err != nil {
		return nil, exit.Retry(err)
	}
	err = removeSockets(".", l.stale(plan.StaleSockets))
	if err == nil {
		err = l.checkKVM(plan)
	}
	if err == nil {
		err = makeSources(l.dir(), plan.NinePShares)
	}
	if err != nil {
		disks.Close()
		return nil, err
	}
	return disks, nil
}

// dir is the VM's directory, which is the current one, as specs have it.
func (l *Launcher) dir() string {
	if l.state != nil {
		return l.state.Dir()
	}
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return dir
}

// beforeStart runs what the hypervisor itself needs to have run, unprivileged as
// everything here.
func beforeStart(commands string) error {
	if commands == "" {
		return nil
	}
	cmd := exec.Command("/bin/sh", "-eu", "-c", commands) //nolint:gosec // the plan's own commands
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("what the hypervisor needs before it starts: %w", err)
	}
	return nil
}

// extraArgs runs the spec's script and splits its one line at white space.
func extraArgs(script string) ([]string, error) {
	if script == "" {
		return nil, nil
	}
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:gosec // the spec's own script
	cmd.Stderr = os.Stderr
	// What it leaves running may hold its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("extraArgsScript %s: %w", script, err)
	}
	if bytes.Count(bytes.TrimSpace(out), []byte("\n")) > 0 {
		return nil, fmt.Errorf("extraArgsScript %s printed more than one line; it has to print the arguments on one", script)
	}
	return strings.Fields(string(out)), nil
}

// switchUser becomes another user when started as root by hand.
func switchUser(name string) error {
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	return becomeUser(name)
}

// environment is ours, with what more the plan says, less what only we may use:
// the hypervisor is not to talk to the service manager.
func environment(more []string) []string {
	ours := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "MICROVM_") ||
			slices.ContainsFunc(more, func(m string) bool { return variableName(m) == variableName(v) })
	})
	return append(ours, more...)
}

// variableName returns the name of a variable, NAME=VALUE.
func variableName(variable string) string {
	n, _, _ := strings.Cut(variable, "=")
	return n
}

// become executes program with the given descriptors, and no other, inherited.
func become(program string, argv, env []string, inherit []int) error {
	for _, fd := range inherit {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand descriptor %d to the hypervisor: %w", fd, err)
		}
	}
	if err := scopeSignals(); err != nil {
		return err
	}
	err := unix.Exec(program, argv, env)
	return fmt.Errorf("execute the hypervisor %s: %w", program, err)
}

// execForeign becomes the microvm-run of a package that has no plan, which
// does everything else itself.
func (l *Launcher) execForeign(p *runner.Package, vm string) error {
	program := filepath.Join(p.Dir(), runner.RunProgram)
	if err := unix.Access(program, unix.X_OK); err != nil {
		return exit.Configf("%s: %w; build the package again", program, err)
	}
	if err := notify.Send(l.Notify, "READY=1", "STATUS=Executed the package's "+runner.RunProgram, notify.NoMore); err != nil {
		return err
	}
	return become(program, []string{unit.Process(vm)}, os.Environ(), nil)
}

// removeSockets removes sockets that an earlier run left.
func removeSockets(dir string, names []string) error {
	return removeFiles(dir, unix.S_IFSOCK, names)
}

// removeFiles removes what an earlier run left, beneath dir and without following
// a link out of it. Anything that is not of that kind, stat(2)'s S_IFMT, stays, as
// does a directory that is not empty.
func removeFiles(dir string, kind uint32, names []string) error {
	root, err := safepath.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer safepath.Close(root)
	for _, name := range names {
		if err := safepath.RemoveKind(root, name, kind); err != nil {
			return fmt.Errorf("remove stale %s: %w", name, err)
		}
	}
	return nil
}

// announce says READY=1 now, or starts the child that will.
func (l *Launcher) announce(plan *hypervisor.Plan, listener *guestListener) error {
	if l.Notify == "" {
		return nil
	}
	if plan.Readiness.Mode == hypervisor.ReadyNone {
		return notify.Send(l.Notify, "READY=1", "STATUS=Executed "+plan.Hypervisor, notify.NoMore)
	}
	return l.startChild(plan, listener)
}
