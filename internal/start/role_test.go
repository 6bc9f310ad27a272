package start

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// The test program plays every part that is not under test itself: the start runs in
// a process of its own, which then executes the hypervisor, and that is this program
// as well.
const (
	rolePackage = "START_TEST_PACKAGE" // run the launcher on this package
	roleBound   = "START_TEST_BOUND"   // without new privileges, as in a unit
	roleQMP     = "START_TEST_QMP"     // be a hypervisor with this QMP behaviour
	roleGuest   = "START_TEST_GUEST"   // be a hypervisor whose guest says this
	roleShow    = "START_TEST_SHOW"    // write what was inherited into this file

	rolePause = "START_TEST_PAUSE" // between two looks at a start's progress

	roleUnprivileged = "START_TEST_UNPRIVILEGED" // be nobody, with this state directory
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == ChildCommand:
		os.Exit(exit.Report(os.Stderr, wrapper, "", AwaitReady(os.Args[2], os.Getenv("NOTIFY_SOCKET"))))
	case os.Getenv(roleShow) != "":
		os.Exit(show(os.Getenv(roleShow)))
	case os.Getenv(roleQMP) != "":
		os.Exit(serveQMP(os.Getenv(roleQMP)))
	case os.Getenv(roleGuest) != "":
		os.Exit(beGuest(os.Getenv(roleGuest)))
	case os.Getenv(rolePackage) != "":
		os.Exit(launchPackage(os.Getenv(rolePackage)))
	}
	os.Exit(m.Run())
}

func launchPackage(dir string) int {
	runtime.LockOSThread() // which the privileges belong to
	if os.Getenv(roleBound) != "" {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return 1
		}
	}
	o := Options{Logf: exit.Logger(os.Stderr, wrapper), Notify: os.Getenv("NOTIFY_SOCKET")}
	o.look, _ = time.ParseDuration(os.Getenv(rolePause))
	p, err := OpenPackage(dir)
	var plan *hypervisor.Plan
	if err == nil {
		plan, err = p.Plan()
	}
	// The run of this program after preStart needs it as well.
	if err == nil && (plan.PreStart == "" || os.Getenv(preStartedVariable) != "") {
		err = os.Unsetenv(rolePackage)
	}
	if err == nil {
		err = Package(p, "web", o)
	}
	return exit.Report(os.Stderr, wrapper, "web", err)
}

// inherited is what show has found.
type inherited struct {
	Args []string
	Env  []string
	FDs  map[string]string
	PID  int
}

func show(file string) int {
	got := inherited{Args: os.Args, Env: os.Environ(), FDs: map[string]string{}, PID: os.Getpid()}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 1
	}
	for _, e := range entries {
		// Go's own are close-on-exec.
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") {
			got.FDs[e.Name()] = target
		}
	}
	data, err := json.Marshal(got)
	if err != nil {
		return 1
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return 1
	}
	if err := os.Rename(file+".new", file); err != nil {
		return 1
	}
	// Until it is killed: Go's runtime would end an empty select as a deadlock.
	for {
		time.Sleep(time.Hour)
	}
}

// serveQMP is a hypervisor whose guest goes down at the second request, after the time
// in behaviour. It speaks as QEMU 7.2.22 did on
// 2026-11-26, whose event of a request comes before the answer to it.
func serveQMP(behaviour string) int {
	signal.Ignore(syscall.SIGTERM)
	takes, err := time.ParseDuration(behaviour)
	if err != nil {
		return 1
	}
	l, err := net.Listen("unix", "qmp.sock")
	if err != nil {
		return 1
	}
	for requests := 0; ; {
		conn, err := l.Accept()
		if err != nil {
			return 1
		}
		_, _ = fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}`)
		for in := bufio.NewScanner(conn); in.Scan(); {
			if strings.Contains(in.Text(), "send-key") || strings.Contains(in.Text(), "system_powerdown") {
				requests++
			}
			if strings.Contains(in.Text(), "system_powerdown") {
				_, _ = fmt.Fprintln(conn, `{"timestamp": {"seconds": 1795653043, "microseconds": 226545}, "event": "POWERDOWN"}`)
			}
			_, _ = fmt.Fprintln(conn, `{"return": {}}`)
			if requests == 2 {
				_, _ = fmt.Fprintln(conn, `{"timestamp": {"seconds": 1795653043, "microseconds": 528562}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
				time.Sleep(takes)
				if err := os.WriteFile("synced", nil, 0o600); err != nil {
					return 1
				}
				return 0
			}
		}
	}
}

// beGuest is a hypervisor with a vsock multiplexer, whose guest sends these
// messages, one after the other: as Cloud Hypervisor 54.0 and Firecracker 1.17.0-dev
// do, it connects to the socket's name with the port behind it.
func beGuest(messages string) int {
	for _, m := range strings.Split(messages, "|") {
		conn, err := net.Dial("unix", fmt.Sprintf("vsock.sock_%s", os.Args[1]))
		if err != nil {
			return 1
		}
		_, _ = conn.Write([]byte(m))
		_ = conn.(*net.UnixConn).CloseWrite()
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	time.Sleep(time.Minute)
	return 0
}

// started is a start in progress.
type started struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	stderr  *os.File
	manager *net.UnixConn
	ended   chan error
}

// pack writes a package with this plan.
func pack(t *testing.T, plan *hypervisor.Plan) string {
	t.Helper()
	plan.Version, plan.Name, plan.Hypervisor = hypervisor.PlanVersion, "web", "stand-in"
	if plan.Shutdown.Method == "" {
		plan.Shutdown.Method = hypervisor.ShutdownNone
	}
	if plan.Readiness.Mode == "" {
		plan.Readiness.Mode = hypervisor.ReadyNone
	}
	dir := t.TempDir()
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "share/microvm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "share/microvm/runner.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launch starts a package in a new state directory, with a service manager that
// listens.
func launch(t *testing.T, pkg string, change ...func(*exec.Cmd)) *started {
	t.Helper()
	s := &started{t: t, dir: t.TempDir(), ended: make(chan error, 1)}
	socket := filepath.Join(t.TempDir(), "notify")
	var err error
	s.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.manager.Close() })
	if s.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.stderr.Close() })
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Dir = s.dir
	s.cmd.Env = append(os.Environ(), rolePackage+"="+pkg, "NOTIFY_SOCKET="+socket)
	s.cmd.Stderr = s.stderr
	for _, c := range change {
		c(s.cmd)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		select {
		case <-s.ended:
		case <-time.After(time.Minute):
			t.Error("the process does not end")
		}
		reap()
		if t.Failed() {
			t.Log(s.log())
		}
	})
	return s
}

// reap reaps the readiness children, whose parent is this process, as the service
// manager would.
func reap() {
	for _, pid := range children() {
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
}

// children returns the readiness children of this process, running or zombies.
func children() []int {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	var out []int
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(data)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err != nil {
				continue
			}
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && (len(line) == 0 || strings.Contains(string(line), ChildCommand)) {
				out = append(out, pid)
			}
		}
	}
	return out
}

// exit waits for the start, or the hypervisor that it executed, to exit.
func (s *started) exit() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		s.ended <- err
		return err
	case <-time.After(time.Minute):
		s.t.Fatal("it does not exit")
		return nil
	}
}

func (s *started) log() string {
	s.t.Helper()
	data, err := os.ReadFile(s.stderr.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// told returns the next message to the service manager.
func (s *started) told() string {
	s.t.Helper()
	if err := s.manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 8192)
	n, err := s.manager.Read(buf)
	if err != nil {
		s.t.Fatalf("the service manager was told nothing: %v", err)
	}
	return string(buf[:n])
}

// silent checks that the service manager gets no message.
func (s *started) silent(d time.Duration) {
	s.t.Helper()
	if err := s.manager.SetReadDeadline(time.Now().Add(d)); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 8192)
	if n, err := s.manager.Read(buf); err == nil {
		s.t.Errorf("the service manager was told %q", buf[:n])
	}
}
