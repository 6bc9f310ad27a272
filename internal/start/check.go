package start

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

// check waits for what the host may have a moment later, and looks for all that has
// to be there before the hypervisor starts. It changes nothing.
func (s *start) check() (err error) {
	if s.program, err = findProgram(s.plan.Argv[0]); err != nil {
		return exit.WithHint(fmt.Errorf("hypervisor %w", err), "install it, or correct %s.package in the spec", s.plan.Hypervisor)
	}
	if err := s.await(); err != nil {
		return err
	}
	s.sayVersion()
	for _, f := range s.plan.Files {
		if err := unix.Access(f.Path, unix.R_OK); err != nil {
			return fmt.Errorf("%s %s: %w; put the file there, or correct the spec and install it again", f.Role, f.Path, err)
		}
	}
	if missing := notMade(s.plan, ".", s.remedies()); len(missing) > 0 {
		return fmt.Errorf("%s", strings.Join(missing, "\n"))
	}
	return nil
}
