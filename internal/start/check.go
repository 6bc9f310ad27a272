package start

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

// check waits for what the host may have a moment later, and returns an error that
// names everything that the hypervisor needs and that is missing. It changes
// nothing.
func (s *start) check() (err error) {
	if s.program, err = findProgram(s.plan.Argv[0]); err != nil {
		return exit.WithHint(fmt.Errorf("hypervisor %w", err), "install it, or correct %s.package in the spec", s.plan.Hypervisor)
	}
	if err := s.await(); err != nil {
		return err
	}
	s.warnOfVersion()
	for _, f := range s.plan.Files {
		if err := unix.Access(f.Path, unix.R_OK); err != nil {
			return exit.WithHint(fmt.Errorf("%s %s: %w", f.Role, f.Path, err), "put a readable file there, or correct the spec and install the VM again")
		}
	}
	return missing(s.plan, ".", s.remedies())
}
