package start

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/process"
	"microvm/internal/runner"
	"microvm/internal/shell"
)

// The spec's preStart comes first in a start, as in microvm.nix: it may create the
// files that check looks for, and create or remove volumes. Its shell then executes
// this program again, in the same process, so that its exported variables, umask and
// limits apply to extraArgsScript and to the hypervisor.

// preStartedVariable holds a preStarted, for the second run of this program. It is
// ignored in a process with another ID than the one it names.
const preStartedVariable = "MICROVM_PRESTARTED"

// preStarted is what the first run of this program passes to the second.
type preStarted struct {
	// PID is this process.
	PID int `json:"pid"`
	// Stale are the sockets of an earlier run that existed before preStart, by path,
	// with the identity of each. Later ones are not stale.
	Stale map[string]string `json:"stale,omitempty"`
	// Program, Package and Dir are the descriptors of this program, of the package and
	// of the directory that the start began in: the account may be unable to reach
	// them by their paths.
	Program int `json:"program"`
	Package int `json:"package"`
	Dir     int `json:"dir"`
	// Keeper is the process that extends the start's time; 0 for none.
	Keeper int `json:"keeper,omitempty"`
	// Macvtaps are the descriptors that root has opened, in the plan's order.
	Macvtaps []int `json:"macvtaps,omitempty"`
}

// preStart executes a shell with the spec's commands, unprivileged like everything
// here. It returns nil where there are none, and in the second run of this program,
// which comes after them.
func (s *start) preStart() error {
	plan := s.plan
	if plan.PreStart == "" {
		return nil
	}
	if second, err := s.resume(); second || err != nil {
		return err
	}
	mark := preStarted{PID: os.Getpid(), Stale: map[string]string{}}
	for _, path := range plan.StaleSockets {
		if which := identity(path); which != "" {
			mark.Stale[path] = which
		}
	}
	if os.Geteuid() == 0 && plan.User != "" { // the user may not open them
		files, err := openMacvtaps(plan.Macvtaps)
		if err != nil {
			return err
		}
		mark.Macvtaps = files.order
	}
	var err error
	if mark.Package, err = unix.Open(s.pkg.Dir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("preStart: open the package: %w", err)
	}
	if mark.Program, err = unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("preStart: open this program: %w", err)
	}
	if mark.Dir, err = unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("preStart: open the current directory: %w", err)
	}
	if err := switchUser(plan.User); err != nil {
		return err
	}
	if mark.Keeper, err = s.startKeeper(); err != nil {
		return err
	}
	script, err := s.preStartScript(plan.PreStart, mark)
	if err != nil {
		return err
	}
	sh, args := shellFor()
	for _, fd := range append(mark.Macvtaps, mark.Program, mark.Package, mark.Dir) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("preStart: pass descriptor %d on: %w", fd, err)
		}
	}
	err = unix.Exec(sh, append(args, "-c", script), os.Environ())
	return fmt.Errorf("preStart: execute %s: %w", sh, err)
}

// shellFor returns the shell for preStart: bash where the host has it, as microvm.nix
// uses it, or else sh.
func shellFor() (path string, args []string) {
	if bash, err := findProgram("bash"); err == nil {
		return bash, []string{"bash", "-eu", "-o", "pipefail"}
	}
	return "/bin/sh", []string{"sh", "-eu"}
}

// preStartScript returns a script that runs the spec's commands, and then executes
// this program again with its arguments.
func (s *start) preStartScript(commands string, mark preStarted) (string, error) {
	text, err := json.Marshal(mark)
	if err != nil {
		return "", fmt.Errorf("preStart: %w", err)
	}
	who := wrapper + ": " + s.vm.Name
	if s.ByHand {
		who = "microvm"
	}
	// The trap is for a failure: exec does not run it.
	failed := `echo ` + shell.Quote(who) + `": preStart: exit status $?" >&2; ` +
		`echo ` + shell.Quote(who) + `": hint: correct the commands of preStart in the spec" >&2`
	again := []string{"exec", fmt.Sprintf("/proc/self/fd/%d", mark.Program)}
	for _, arg := range os.Args[1:] {
		again = append(again, shell.Quote(arg))
	}
	return strings.Join([]string{
		// On one line, so that the shell's line numbers are those of the commands.
		"trap " + shell.Quote(failed) + " EXIT; " + commands,
		"export " + preStartedVariable + "=" + shell.Quote(string(text)),
		strings.Join(again, " "),
	}, "\n"), nil
}

// firstRun returns what the first run of this program has passed on; false if this is
// the first run.
func firstRun() (*preStarted, bool) {
	var mark preStarted
	text := os.Getenv(preStartedVariable)
	if text == "" || json.Unmarshal([]byte(text), &mark) != nil || mark.PID != os.Getpid() {
		return nil, false
	}
	return &mark, true
}

// Resume returns to the directory that the start began in, if this is the run of the
// program after preStart. It is for starts without units.
func Resume() error {
	mark, ok := firstRun()
	if !ok {
		return nil
	}
	if err := unix.Fchdir(mark.Dir); err != nil {
		return fmt.Errorf("return to the directory before preStart: %w", err)
	}
	return os.Unsetenv("PWD") // preStart may have changed it
}

// OpenPackage opens the package in dir, as a user named it. After preStart it is the
// package that was opened before.
func OpenPackage(dir string) (*runner.Package, error) {
	mark, ok := firstRun()
	if !ok {
		return runner.Open(dir)
	}
	p, err := runner.Open(fmt.Sprintf("/proc/self/fd/%d", mark.Package))
	if err != nil {
		return nil, err
	}
	p.SetDir(dir)
	return p, nil
}

// resume reports whether this is the run after preStart, and if so takes over what
// the first run passed on.
func (s *start) resume() (bool, error) {
	mark, ok := firstRun()
	err := Resume()
	_ = os.Unsetenv(preStartedVariable)
	if !ok || err != nil {
		return ok, err
	}
	for _, fd := range append(mark.Macvtaps, mark.Program, mark.Package, mark.Dir) {
		unix.CloseOnExec(fd)
	}
	// Or ps would show the number of a descriptor.
	_ = os.WriteFile("/proc/self/comm", []byte(wrapper), 0)
	s.preStarted = mark
	endKeeper(mark.Keeper)
	return true, nil
}

// identity returns a text that distinguishes a file from a later one of the same name,
// "" if there is none.
func identity(path string) string {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, st.Ctim.Nano())
}

// stale returns those of the sockets that are older than preStart, which may have
// started a server for a new one.
func (s *start) stale(sockets []string) []string {
	if s.preStarted == nil {
		return sockets
	}
	return slices.DeleteFunc(slices.Clone(sockets), func(path string) bool {
		return s.preStarted.Stale[path] == "" || identity(path) != s.preStarted.Stale[path]
	})
}

// startKeeper starts the process that extends the start's time while preStart runs:
// it may take long, for instance to copy an image. It returns 0 without a service
// manager.
func (s *start) startKeeper() (int, error) {
	if s.Notify == "" {
		return 0, nil
	}
	pid, err := s.startChildWith(childOrders{PID: os.Getpid(), VM: s.vm.Name, Keep: true}, nil)
	if err != nil {
		return 0, fmt.Errorf("preStart: %w", err)
	}
	return pid, nil
}

// endKeeper ends that process, if pid is still its, and waits until it has exited:
// nothing that it sends may arrive after READY=1.
func endKeeper(pid int) {
	if pid <= 1 {
		return
	}
	keeper, err := process.Hold(pid)
	if err != nil || keeper == nil {
		return // it has exited
	}
	defer keeper.Release()
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !strings.Contains(string(line), "\x00"+ChildCommand+"\x00") {
		return
	}
	if keeper.Signal(unix.SIGTERM) != nil {
		return
	}
	select {
	case <-keeper.Gone():
	case <-time.After(barrierTimeout):
		_ = keeper.Signal(unix.SIGKILL)
		<-keeper.Gone()
	}
}
