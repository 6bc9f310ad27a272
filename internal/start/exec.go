package start

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/runner"
	"microvm/internal/unit"
)

// arguments completes what was filled in of the plan's arguments by those of the
// spec's script, and by the name that the process is to have.
func (s *start) arguments(argv []string) []string {
	if s.plan.Last > 0 {
		argv = slices.Insert(argv, len(s.plan.Argv)-s.plan.Last, s.extra...)
	} else {
		argv = append(argv, s.extra...)
	}
	if s.plan.ProcessName != "" {
		argv[0] = s.plan.ProcessName
	}
	return argv
}

// environment is ours, with what more the plan says, less what only we may use:
// the hypervisor is not to talk to the service manager.
func environment(plan *hypervisor.Plan) []string {
	more := plan.Env
	if plan.Jail != nil {
		return more // nothing of the host's, as Firecracker's jailer does
	}
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

// execute executes program with the given descriptors, and no other, inherited.
func execute(program string, argv, env []string, inherit []int) error {
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

// becomeForeign becomes the microvm-run of a package that has no plan, which
// does everything else itself.
func (s *start) becomeForeign() error {
	program := filepath.Join(s.pkg.Dir(), runner.RunProgram)
	if err := unix.Access(program, unix.X_OK); err != nil {
		return exit.Configf("%s: %w; build the package again", program, err)
	}
	if err := notify.Send(s.Notify, "READY=1", "STATUS=Executed the package's "+runner.RunProgram, notify.NoMore); err != nil {
		return err
	}
	return execute(program, []string{unit.Process(s.vm.Name)}, os.Environ(), nil)
}
