package start

import (
	"runtime"

	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/wait"
)

// start is one start, and what it gathers until this process becomes the
// hypervisor.
type start struct {
	Options
	vm   statedir.VM
	pkg  *runner.Package
	plan *hypervisor.Plan

	// waits is how long this start waits for things; nil until it does.
	waits *wait.Patience
	// preStarted is what the run of this program before preStart has left; nil where
	// there was none.
	preStarted *preStarted
	// program is the hypervisor's path.
	program string
	files   *macvtapFiles
	disks   *images
	// extra are the arguments that the spec's extraArgsScript printed.
	extra []string
}

// run goes through the phases of a start: check, prepare and become. The spec's
// preStart comes before them all, for what it makes is looked for.
func (s *start) run() error {
	// Credentials belong to a thread, and the one that executes the hypervisor
	// decides what that has.
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
	// After the hypervisor was executed it is not called: what is to be closed then
	// has the flag for it.
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	return s.become()
}

// close closes what is open for the start.
func (s *start) close() { s.disks.Close() }

// hasState reports whether vm has a state directory of its own: one that is run by
// hand has only a name.
func hasState(vm statedir.VM) bool { return vm.Host.StateDir != "" }
