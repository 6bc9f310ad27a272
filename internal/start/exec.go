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

// arguments inserts the arguments of the spec's script into argv, the plan's
// arguments, and sets the process's name.
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

// environment returns this process's environment with the plan's variables, and
// without those of this program: the hypervisor must not talk to the service
// manager.
func environment(plan *hypervisor.Plan) []string {
	more := plan.Env
	if plan.Jail != nil {
		return more // nothing of the host's, like Firecracker's jailer
	}
	ours := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "MICROVM_") ||
			slices.ContainsFunc(more, func(m string) bool { return variableName(m) == variableName(v) })
	})
	return append(ours, more...)
}

// variableName returns NAME of a variable NAME=VALUE.
func variableName(variable string) string {
	n, _, _ := strings.Cut(variable, "=")
	return n
}

// execute executes program, which inherits the given descriptors and no others. It
// returns only on failure.
func execute(program string, argv, env []string, inherit []int) error {
	for _, fd := range inherit {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("pass descriptor %d to the hypervisor: %w", fd, err)
		}
	}
	if err := scopeSignals(); err != nil {
		return err
	}
	err := unix.Exec(program, argv, env)
	return fmt.Errorf("execute hypervisor %s: %w", program, err)
}

// becomeForeign executes the microvm-run of a package without a plan, which does
// everything else itself. It returns only on failure.
func (s *start) becomeForeign() error {
	program := filepath.Join(s.pkg.Dir(), runner.RunProgram)
	if err := unix.Access(program, unix.X_OK); err != nil {
		return exit.WithHint(exit.Configf("%s: %w", program, err), "rebuild the package")
	}
	if err := notify.Send(s.Notify, "READY=1", "STATUS=Executed the package's "+runner.RunProgram, notify.NoMore); err != nil {
		return err
	}
	return execute(program, []string{unit.Process(s.vm.Name)}, os.Environ(), nil)
}
