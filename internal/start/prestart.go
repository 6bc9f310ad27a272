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

// The spec's preStart comes before all else of a start, as in microvm.nix: the
// files that it makes are looked for, and the volumes that it makes or removes are
// found so. Its shell goes on as this program again, in the same process: what it
// exports, its umask and its limits are those of extraArgsScript and of the
// hypervisor.

// preStartedVariable tells the second run of this program that preStart is over.
// It counts in the process that it names only.
const preStartedVariable = "MICROVM_PRESTARTED"

// preStarted is what the first run of this program hands to the second.
type preStarted struct {
	// PID of this process.
	PID int `json:"pid"`
	// Stale are the sockets of an earlier run that were there before preStart, and
	// which files they were. What was made since is no leftover.
	Stale map[string]string `json:"stale,omitempty"`
	// Program, Package and Dir are the descriptors of this program, of the package and
	// of the directory that the start began in: the account need not reach them by
	// their paths.
	Program int `json:"program"`
	Package int `json:"package"`
	Dir     int `json:"dir"`
	// Keeper is the process that asks the service manager for patience; 0 for none.
	Keeper int `json:"keeper,omitempty"`
	// Macvtaps are the descriptors that root has opened, in the plan's order.
	Macvtaps []int `json:"macvtaps,omitempty"`
}

// preStart runs the spec's commands, unprivileged as everything here. It returns
// where there are none, and in the run of this program that comes after them.
func (s *start) preStart() error {
	plan := s.plan
	if plan.PreStart == "" {
		return nil
	}
	if again, err := s.goOn(); again || err != nil {
		return err
	}
	mark := preStarted{PID: os.Getpid(), Stale: map[string]string{}}
	for _, path := range plan.StaleSockets {
		if which := identity(path); which != "" {
			mark.Stale[path] = which
		}
	}
	if os.Geteuid() == 0 && plan.User != "" { // which may not open them itself
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
			return fmt.Errorf("preStart: hand descriptor %d on: %w", fd, err)
		}
	}
	err = unix.Exec(sh, append(args, "-c", script), os.Environ())
	return fmt.Errorf("preStart: execute %s: %w", sh, err)
}

// shellFor is bash where the host has it, for which preStart is written in
// microvm.nix, and sh where it has not.
func shellFor() (path string, args []string) {
	if bash, err := findProgram("bash"); err == nil {
		return bash, []string{"bash", "-eu", "-o", "pipefail"}
	}
	return "/bin/sh", []string{"sh", "-eu"}
}

// preStartScript is the spec's commands, and then this program with the words that
// it was called with.
func (s *start) preStartScript(commands string, mark preStarted) (string, error) {
	text, err := json.Marshal(mark)
	if err != nil {
		return "", fmt.Errorf("preStart: %w", err)
	}
	who := wrapper + ": " + s.vm.Name
	if s.ByHand {
		who = "microvm"
	}
	// A shell that goes on does not exit.
	failed := `echo ` + shell.Quote(who) + `": preStart: exit status $?; correct the commands in the spec" >&2`
	again := []string{"exec", fmt.Sprintf("/proc/self/fd/%d", mark.Program)}
	for _, word := range os.Args[1:] {
		again = append(again, shell.Quote(word))
	}
	return strings.Join([]string{
		// On one line, so that the shell counts the lines of the spec's commands.
		"trap " + shell.Quote(failed) + " EXIT; " + commands,
		"export " + preStartedVariable + "=" + shell.Quote(string(text)),
		strings.Join(again, " "),
	}, "\n"), nil
}

// markOf is what the first run of this program has left, in the one that comes
// after preStart.
func markOf() (*preStarted, bool) {
	var mark preStarted
	text := os.Getenv(preStartedVariable)
	if text == "" || json.Unmarshal([]byte(text), &mark) != nil || mark.PID != os.Getpid() {
		return nil, false
	}
	return &mark, true
}

// Resume returns to the directory that a start by hand began in, where this is the
// run of the program that comes after preStart.
func Resume() error {
	mark, ok := markOf()
	if !ok {
		return nil
	}
	if err := unix.Fchdir(mark.Dir); err != nil {
		return fmt.Errorf("return from where preStart went: %w", err)
	}
	return os.Unsetenv("PWD") // which may name another now
}

// OpenPackage opens a package that a person has named. Behind preStart it is the
// one that was open before.
func OpenPackage(dir string) (*runner.Package, error) {
	mark, ok := markOf()
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

// goOn says whether this is the run that comes after preStart, and takes over what
// the first one left it.
func (s *start) goOn() (bool, error) {
	mark, ok := markOf()
	err := Resume()
	_ = os.Unsetenv(preStartedVariable)
	if !ok || err != nil {
		return ok, err
	}
	for _, fd := range append(mark.Macvtaps, mark.Program, mark.Package, mark.Dir) {
		unix.CloseOnExec(fd)
	}
	// The name of a descriptor is none for ps.
	_ = os.WriteFile("/proc/self/comm", []byte(wrapper), 0)
	s.preStarted = mark
	endKeeper(mark.Keeper)
	return true, nil
}

// identity tells a file from another that has its name later; it is empty where
// there is none.
func identity(path string) string {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, st.Ctim.Nano())
}

// stale are those of the sockets that were there before preStart, which may have
// started what serves one.
func (s *start) stale(sockets []string) []string {
	if s.preStarted == nil {
		return sockets
	}
	return slices.DeleteFunc(slices.Clone(sockets), func(path string) bool {
		return s.preStarted.Stale[path] == "" || identity(path) != s.preStarted.Stale[path]
	})
}

// startKeeper starts the process that asks the service manager for patience while
// preStart runs: copying an image may take longer than a start may. It returns 0
// where nobody listens.
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

// endKeeper ends it, if it is that still, and waits until it is gone: nothing that
// it sends may come after READY=1.
func endKeeper(pid int) {
	if pid <= 1 {
		return
	}
	keeper, err := process.Hold(pid)
	if err != nil || keeper == nil {
		return // it is gone
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
