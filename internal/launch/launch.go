// Package launch starts and stops a VM's hypervisor, unprivileged: it makes
// the volumes, opens what the hypervisor is to inherit, starts the readiness
// child and then becomes the hypervisor, so that nothing of ours stays.
package launch

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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
	"microvm/internal/netif"
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
	files, err := l.macvtaps(plan.Macvtaps)
	if err != nil {
		return err
	}
	// What follows makes files that the hypervisor has to write, and runs what the
	// package names.
	if err := switchUser(plan.User); err != nil {
		return err
	}
	// Open until the hypervisor is executed, and some of them beyond.
	var disks *images
	var extra []string
	err = l.patiently(func() error {
		if disks, err = l.prepare(plan); err != nil {
			return err
		}
		return disks.lend(vm, func() error {
			if err := beforeStart(plan.BeforeStart); err != nil {
				return err
			}
			extra, err = extraArgs(plan.ExtraArgsScript)
			return err
		})
	})
	defer disks.Close()
	if err != nil {
		return err
	}
	listener, err := l.listen(plan)
	if err != nil {
		return err
	}
	key, err := newKey(plan)
	if err != nil {
		return explain("key", err)
	}
	values := &startValues{files: files, listener: listener, shutdownKey: key, packageDir: p.Dir(), arch: plan.Arch}
	argv, err := values.expandAll(slices.Concat(plan.Argv, l.landlock(plan)))
	if err != nil {
		return err
	}
	if err := values.write(plan.Generated); err != nil {
		return err
	}
	if err := l.announce(plan, listener); err != nil {
		return err
	}
	if plan.Last > 0 {
		argv = slices.Insert(argv, len(plan.Argv)-plan.Last, extra...)
	} else {
		argv = append(argv, extra...)
	}
	if plan.ProcessName != "" {
		argv[0] = plan.ProcessName
	}
	if err := standardInput(plan); err != nil {
		return err
	}
	env := environment(plan.Env)
	if plan.Jail != nil {
		env = plan.Env // nothing of the host's, as Firecracker's jailer does
	}
	return become(program, argv, env, slices.Concat(files.inherited(), disks.inherited()))
}

// check looks for what has to be there before the hypervisor starts.
func (l *Launcher) check(p *runner.Package, plan *hypervisor.Plan, vm string) error {
	for _, f := range plan.Files {
		if err := unix.Access(f.Path, unix.R_OK); err != nil {
			return fmt.Errorf("%s %s: %w; put the file there, or correct the spec and install it again", f.Role, f.Path, err)
		}
	}
	if missing := notMade(plan, ".", l.remedies(p, vm)); len(missing) > 0 {
		return fmt.Errorf("%s", strings.Join(missing, "\n"))
	}
	return nil
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

// checkKVM tells an operator why a VM is slow, or would never boot.
func (l *Launcher) checkKVM(plan *hypervisor.Plan) error {
	if plan.KVM == hypervisor.KVMUnused {
		return nil
	}
	if !kvm.Runs(plan.Arch) {
		if plan.KVM == hypervisor.KVMWanted {
			return nil // emulated, as everybody expects
		}
		return exit.WithHint(fmt.Errorf("this VM needs KVM, which on this host has no guests of architecture %s", plan.Arch), "%s", withoutKVM(plan))
	}
	err := usableKVM()
	if err == nil {
		return nil
	}
	const remedy = "load kvm_intel or kvm_amd and let group kvm read and write /dev/kvm"
	if plan.KVM == hypervisor.KVMRequired {
		return fmt.Errorf("%w; this VM needs it: %s, or %s", err, remedy, withoutKVM(plan))
	}
	l.logf("warning: %w; the guest is emulated, which is slow: %s", err, remedy)
	return nil
}

// withoutKVM is how a VM that needs KVM is made to do without.
func withoutKVM(plan *hypervisor.Plan) string {
	if plan.Hypervisor == "qemu" {
		return "set cpu in the spec to a model that QEMU emulates as well, such as max, and accel, if it is set, to kvm:tcg"
	}
	return "take hypervisor qemu, which can do without"
}

// helperRemedies are what to do where something is missing that a helper makes.
type helperRemedies struct{ Taps, Macvtaps, Shares string }

func (l *Launcher) remedies(p *runner.Package, vm string) helperRemedies {
	if l.ByHand {
		bin := filepath.Join(p.Dir(), "bin")
		return helperRemedies{
			Taps:     "make it with: sudo " + filepath.Join(bin, "tap-up"),
			Macvtaps: "make it with: sudo " + filepath.Join(bin, "macvtap-up"),
			Shares:   "serve it, in another terminal, with: sudo " + filepath.Join(bin, "virtiofsd-run"),
		}
	}
	start := func(helper unit.Template) string {
		return fmt.Sprintf("make it with: systemctl start %s (or install the VM again if that unit was not pulled in)", unit.Short(helper.Of(vm)))
	}
	return helperRemedies{
		Taps:     start(unit.Taps),
		Macvtaps: start(unit.Macvtaps),
		Shares:   start(unit.Virtiofsd),
	}
}

// notMade lists what the helpers should have made and is not there, each with
// what makes it. dir is the state directory.
func notMade(plan *hypervisor.Plan, dir string, remedies helperRemedies) []string {
	var out []string
	for _, t := range plan.Taps {
		if !netif.Exists(t.ID) {
			out = append(out, fmt.Sprintf("tap interface %q is missing; %s", t.ID, remedies.Taps))
		}
	}
	for _, m := range plan.Macvtaps {
		if !netif.Exists(m.ID) {
			out = append(out, fmt.Sprintf("macvtap interface %q is missing; %s", m.ID, remedies.Macvtaps))
		}
	}
	for _, s := range plan.Shares {
		path := s.Socket
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); err != nil {
			out = append(out, fmt.Sprintf("socket %s of share %q is missing; %s", s.Socket, s.Tag, remedies.Shares))
		}
	}
	return out
}

// handedOver reports whether a PCI device has the driver vfio-pci, and who runs this
// may use its IOMMU group: Documentation/driver-api/vfio.rst of the kernel.
func handedOver(address string) bool {
	device := "/sys/bus/pci/devices/" + address
	driver, err := os.Readlink(device + "/driver")
	if err != nil || filepath.Base(driver) != "vfio-pci" {
		return false
	}
	group, err := os.Readlink(device + "/iommu_group")
	return err == nil && unix.Access("/dev/vfio/"+filepath.Base(group), unix.R_OK|unix.W_OK) == nil
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

// startValues are what is known only now, for the placeholders of a plan.
type startValues struct {
	files       *macvtapFiles
	listener    *guestListener
	shutdownKey string
	packageDir  string
	// arch is the guest's.
	arch string
}

func (v *startValues) value(name string) (string, error) {
	switch name {
	case "notify-port":
		return strconv.Itoa(int(v.listener.port())), nil
	case "tsc-khz", "tsc-khz-without-kvm":
		return tscPlaceholder(name != "tsc-khz", kvm.Runs(v.arch))
	case "package":
		return v.packageDir, nil
	case "shutdown-key":
		return v.shutdownKey, nil
	}
	if id, ok := strings.CutPrefix(name, "macvtap-device:"); ok {
		index, err := netif.Index(id)
		return fmt.Sprintf("/dev/tap%d", index), err
	}
	return v.files.fd(name)
}

// expandAll fills in a command line.
func (v *startValues) expandAll(argv []string) ([]string, error) {
	out := make([]string, len(argv))
	for i, arg := range argv {
		var err error
		if out[i], err = hypervisor.Expand(arg, v.value); err != nil {
			return nil, fmt.Errorf("the plan's command line: %w", err)
		}
	}
	return out, nil
}

// write writes the files that the hypervisor reads.
func (v *startValues) write(files []hypervisor.GeneratedFile) error {
	for _, g := range files {
		content, err := hypervisor.Expand(g.Content, v.value)
		if err != nil {
			return fmt.Errorf("the plan's %s: %w", g.Path, err)
		}
		if err := os.WriteFile(g.Path, []byte(content), 0o600); err != nil {
			return explain(g.Path, fmt.Errorf("write %s: %w", g.Path, err))
		}
	}
	return nil
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
