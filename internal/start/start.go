// Package start starts a VM's hypervisor, unprivileged: it checks that all is there
// that the VM needs, makes the volumes, opens what the hypervisor is to inherit,
// starts the readiness child and then becomes the hypervisor, so that nothing of
// ours stays.
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

// wrapper is the program that a unit runs to get here, and that is run again as the
// readiness child.
var wrapper = unit.Main.Program

// Options are how a VM is started.
type Options struct {
	// Logf gets a line for each thing that takes time.
	Logf exit.Logf
	// Notify is the service manager's socket, or "".
	Notify string
	// ByHand says that a person runs the package, without units: what is missing
	// is made by the package's own scripts.
	ByHand bool
	// look is the time between two looks at the progress of a start; 0 is lookPause.
	look time.Duration
}

// Unit becomes the hypervisor of vm, with the package that microvm-set-booted@
// has pinned. It returns only on failure.
func Unit(vm statedir.VM, o Options) error {
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
	s := &start{Options: o, vm: vm, pkg: p, plan: plan}
	return s.run()
}

// Package becomes the hypervisor of package p, in the current directory. The VM
// has the name that is given, and no directory of its own. It returns only on
// failure.
func Package(p *runner.Package, name string, o Options) error {
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	s := &start{Options: o, vm: statedir.VM{Name: name}, pkg: p, plan: plan}
	return s.run()
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
