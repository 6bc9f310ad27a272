// Package start starts a VM's hypervisor, unprivileged. It checks that everything the
// VM needs exists, creates the volumes, opens the descriptors that the hypervisor
// inherits, starts the readiness child and then executes the hypervisor in its own
// place, so no process of this program remains.
package start

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"microvm/internal/exit"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/unit"
)

// wrapper is the program of the VM's unit, which also runs as the readiness child.
var wrapper = unit.Main.Program

// Options are how a VM is started.
type Options struct {
	// Logf logs warnings, and each step that takes time.
	Logf exit.Logf
	// Notify is the service manager's socket, or "".
	Notify string
	// ByHand means that a user runs the package without units: hints then name the
	// package's own scripts.
	ByHand bool
	// look is the time between two checks of the start's progress; 0 means lookPause.
	look time.Duration
}

// Unit executes the hypervisor of vm, from the package that microvm-set-booted@ has
// pinned, in place of this process. It returns only on failure.
func Unit(vm statedir.VM, o Options) error {
	p, err := vm.Pinned()
	if errors.Is(err, fs.ErrNotExist) && vm.Exists() {
		return notPinned(vm)
	}
	if err != nil {
		return vm.PackageError(err)
	}
	if err := os.Chdir(vm.Dir()); err != nil {
		return fmt.Errorf("change to the state directory: %w", err)
	}
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	if err := checkHelpers(vm, plan); err != nil {
		return err
	}
	s := &start{Options: o, vm: vm, pkg: p, plan: plan}
	return s.run()
}

// Package executes the hypervisor of package p in place of this process, in the
// current directory. name is the VM's, which has no state directory. It returns only
// on failure.
func Package(p *runner.Package, name string, o Options) error {
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	s := &start{Options: o, vm: statedir.VM{Name: name}, pkg: p, plan: plan}
	return s.run()
}

// notPinned returns an error that explains why microvm-set-booted@ has pinned no
// package.
func notPinned(vm statedir.VM) error {
	p, err := vm.Current()
	if err != nil {
		return vm.PackageError(err)
	}
	_ = p.Close()
	pinner := unit.SetBooted.Of(vm.Name)
	return exit.WithHint(fmt.Errorf("no package was pinned for this start: %s failed", pinner),
		"find the cause with: journalctl -u %s", unit.Short(pinner))
}
