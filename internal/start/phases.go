package start

import (
	"runtime"

	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/wait"
)

// start is a start of a VM, with what it collects until this process becomes the
// hypervisor.
type start struct {
	Options
	vm   statedir.VM
	pkg  *runner.Package
	plan *hypervisor.Plan

	// waits is shared by all waits; nil until the first.
	waits *wait.Patience
	// preStarted is from the run of this program before preStart; nil if there was
	// none.
	preStarted *preStarted
	// program is the path of the hypervisor.
	program string
	files   *macvtapFiles
	disks   *images
	// extra are the arguments that the spec's extraArgsScript printed.
	extra []string
}

// run goes through the phases of a start: check, prepare and become. The spec's
// preStart comes before them, as check finds what it creates. run returns only on
// failure.
func (s *start) run() error {
	// Credentials belong to a thread, and the hypervisor gets those of the thread that
	// executes it.
	runtime.LockOSThread()
	if s.plan.Foreign {
		return s.becomeForeign()
	}
	if err := s.preStart(); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	// Not reached if the hypervisor is executed: what must be closed then is
	// close-on-exec.
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	return s.become()
}

// close closes the images.
func (s *start) close() { s.disks.Close() }

// hasState reports whether vm has a state directory: one that is run without units
// has only a name.
func hasState(vm statedir.VM) bool { return vm.Host.StateDir != "" }
