package start

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/guest"
	"microvm/internal/hypervisor"
	"microvm/internal/notify"
	"microvm/internal/runner"
	"microvm/internal/unit"
)

// become starts the readiness child and becomes the hypervisor; it returns only on
// failure.
func (s *start) become() error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	key, err := newKey(s.plan)
	if err != nil {
		return explain("key", err)
	}
	values := &startValues{files: s.files, listener: listener, shutdownKey: key, packageDir: s.pkg.Dir(), arch: s.plan.Arch}
	argv, err := values.expandAll(slices.Concat(s.plan.Argv, landlock(s.plan, s.Logf)))
	if err != nil {
		return err
	}
	if err := values.write(s.plan.Generated); err != nil {
		return err
	}
	if err := s.announce(listener); err != nil {
		return err
	}
	if err := standardInput(s.plan); err != nil {
		return err
	}
	return execute(s.program, s.arguments(argv), environment(s.plan), slices.Concat(s.files.inherited(), s.disks.inherited()))
}

// newKey makes the key of this start where the plan has the guest asked over SSH.
// It returns the public half as the plan's placeholder stands for it.
func newKey(plan *hypervisor.Plan) (string, error) {
	if plan.Shutdown.SSH == nil {
		return "", nil
	}
	line, err := guest.NewKey(plan.Shutdown.SSH.Key)
	return base64.StdEncoding.EncodeToString([]byte(line)), err
}

// announce says READY=1 now, or starts the child that will.
func (s *start) announce(listener *guestListener) error {
	if s.Notify == "" {
		return nil
	}
	if s.plan.Readiness.Mode == hypervisor.ReadyNone {
		return notify.Send(s.Notify, "READY=1", "STATUS=Executed "+s.plan.Hypervisor, notify.NoMore)
	}
	return s.startChild(listener)
}

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
