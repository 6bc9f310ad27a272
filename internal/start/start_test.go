package start

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/need"
	"microvm/test/testutil"
)

// self returns the path of this program, for the hypervisor of a plan.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// seen reads what the stand-in has written.
func seen(t *testing.T, file string) inherited {
	t.Helper()
	testutil.Until(t, "the hypervisor's start", func() bool { _, err := os.Stat(file); return err == nil })
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got inherited
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// onlyStandard checks that the hypervisor inherited no descriptors of the start. Those
// that the caller of the tests left open for every process do not count.
func onlyStandard(t *testing.T, got inherited) {
	t.Helper()
	left := map[string]bool{}
	for fd := range 256 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			left[target] = true
		}
	}
	for fd, target := range got.FDs {
		if left[target] {
			continue
		}
		if len(fd) > 1 || fd > "2" {
			if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, os.TempDir()) {
				t.Errorf("the hypervisor has descriptor %s, %s", fd, target)
			}
		}
	}
}

// gone waits until the readiness child has exited. Its parent is this process, not the
// hypervisor, which would never reap it.
func gone(t *testing.T) {
	t.Helper()
	testutil.Until(t, "the end of the readiness child", func() bool {
		return !slices.ContainsFunc(children(), func(pid int) bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && !strings.Contains(string(stat), ") Z ")
		})
	})
}

// TestWhatStaysLastIsBehindTheScriptsArguments.
func TestWhatStaysLastIsBehindTheScriptsArguments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen")
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv: []string{self(t), "-x", "-device", "ours"}, Last: 2, Env: []string{roleShow + "=" + file}, ExtraArgsScript: "echo -device theirs",
	}))
	s.told()
	if got, want := seen(t, file).Args[1:], []string{"-x", "-device", "theirs", "-device", "ours"}; !slices.Equal(got, want) {
		t.Errorf("arguments %q, want %q", got, want)
	}
}

func TestTheLauncherBecomesTheHypervisor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen")
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:            []string{self(t), "-x", hypervisor.Literal("@{a}"), ""},
		ProcessName:     "microvm@web",
		Env:             []string{roleShow + "=" + file, "KEY=value"},
		ExtraArgsScript: "echo '  -more  args '",
	}), func(c *exec.Cmd) { c.Env = append(c.Env, "MICROVM_STATE_DIR=/x") })
	if got := s.told(); got != "READY=1\nSTATUS=Executed stand-in\nNOTIFYACCESS=none" {
		t.Errorf("the service manager was told %q", got)
	}
	got := seen(t, file)
	if want := []string{"microvm@web", "-x", "@{a}", "", "-more", "args"}; !slices.Equal(got.Args, want) {
		t.Errorf("arguments %q, want %q", got.Args, want)
	}
	if got.PID != s.cmd.Process.Pid {
		t.Errorf("the hypervisor is process %d, want %d: the unit's main process", got.PID, s.cmd.Process.Pid)
	}
	for _, v := range got.Env {
		if strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "MICROVM_") {
			t.Errorf("the hypervisor has %s", v)
		}
	}
	if !slices.Contains(got.Env, "KEY=value") {
		t.Error("the hypervisor does not have the plan's variables")
	}
	onlyStandard(t, got)
	if len(children()) != 0 {
		t.Error("there is a readiness child and nothing to wait for")
	}
}

func TestReadyIsSaidWhenQEMURunsTheVM(t *testing.T) {
	program := need.Program(t, "qemu-system-x86_64")
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv: []string{program, "-M", "none", "-display", "none", "-nodefaults", "-S",
			"-qmp", "unix:qmp.sock,server=on,wait=off", "-qmp", "unix:other.sock,server=on,wait=off"},
		Readiness: hypervisor.Readiness{Mode: hypervisor.ReadyVMM, Control: &hypervisor.Control{Method: "qmp", Socket: "qmp.sock"}},
	}))
	ctx := context.Background()
	q, err := control.DialQMP(ctx, s.dir, "other.sock")
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		q, err = control.DialQMP(ctx, s.dir, "other.sock") // QEMU is starting
	}
	if err != nil {
		t.Fatal(err)
	}
	s.silent(500 * time.Millisecond) // stopped by -S
	defer func() { _ = q.Close() }()
	if err := q.Execute(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.told(); got != "READY=1\nSTATUS=stand-in runs the VM" {
		t.Errorf("the service manager was told %q", got)
	}
	for _, want := range []string{"NOTIFYACCESS=none", "BARRIER=1"} {
		if got := s.told(); got != want {
			t.Errorf("the service manager was told %q, want %q", got, want)
		}
	}
	gone(t)
}

func TestReadinessChildEndsWithTheHypervisor(t *testing.T) {
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:      []string{"/bin/sh", "-c", "echo kernel panic >&2; sleep 0.1; exit 3"},
		Readiness: hypervisor.Readiness{Mode: hypervisor.ReadyVMM, Control: &hypervisor.Control{Method: "qmp", Socket: "qmp.sock"}},
	}))
	var ended *exec.ExitError
	if err := s.exit(); !errors.As(err, &ended) || ended.ExitCode() != 3 {
		t.Errorf("it ended with %v, want the hypervisor's own exit code", err)
	}
	gone(t)
	s.silent(10 * time.Millisecond)
	if log := s.log(); log != "kernel panic\n" {
		t.Errorf("the log is %q, want the hypervisor's last words", log)
	}
}

func guestPlan(t *testing.T, says string) *hypervisor.Plan {
	return &hypervisor.Plan{
		Argv:      []string{self(t), hypervisor.NotifyPort},
		Env:       []string{roleGuest + "=" + says},
		Readiness: hypervisor.Readiness{Mode: hypervisor.ReadyGuest, VsockSocket: "vsock.sock"},
	}
}

func TestReadyIsSaidWhenTheGuestSaysIt(t *testing.T) {
	s := launch(t, pack(t, guestPlan(t, "STATUS=Starting a|MAINPID=1|STATUS=Starting b|READY=1\nSTATUS=up|STATUS=later")))
	extend := fmt.Sprintf("\nEXTEND_TIMEOUT_USEC=%d", extendStep.Microseconds())
	for _, want := range []string{"STATUS=Starting a" + extend, "STATUS=Starting b" + extend, "READY=1\nSTATUS=up", "STATUS=later" + extend, "NOTIFYACCESS=none", "BARRIER=1"} {
		if got := s.told(); got != want {
			t.Errorf("the service manager was told %q, want %q", got, want)
		}
	}
	gone(t)
	if left := names(t, s.dir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestReadinessChildEndsWithTheHypervisorOfAGuestThatIsNeverReady(t *testing.T) {
	s := launch(t, pack(t, guestPlan(t, "STATUS=Starting a|STATUS=Waiting for /dev/vdb")))
	s.told()
	s.told()
	// The start has timed out: the service manager ends the main process.
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gone(t)
	s.silent(10 * time.Millisecond) // the guest's last word is the unit's status still
	if left := names(t, s.dir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestVsockListenerIsTheChildsAlone(t *testing.T) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no vsock here (%v); load the module with: modprobe vsock", err)
	}
	_ = unix.Close(fd)
	file := filepath.Join(t.TempDir(), "seen")
	cid := int64(42)
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:      []string{self(t), "port=" + hypervisor.NotifyPort},
		Env:       []string{roleShow + "=" + file},
		VsockCID:  &cid,
		Readiness: hypervisor.Readiness{Mode: hypervisor.ReadyGuest},
	}))
	got := seen(t, file)
	onlyStandard(t, got)
	if got.Args[1] == "port=0" || !strings.HasPrefix(got.Args[1], "port=") {
		t.Errorf("the hypervisor was told %q, want a port", got.Args[1])
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t)
}

func TestStaleSocketsAreRemovedAndNothingElse(t *testing.T) {
	other := t.TempDir()
	file := filepath.Join(t.TempDir(), "seen")
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:         []string{self(t)},
		Env:          []string{roleShow + "=" + file},
		StaleSockets: []string{"api.sock", "sub/api.sock", "file", "out/api.sock", "link", "none/api.sock", "none"},
		Generated:    []hypervisor.GeneratedFile{{Path: "vm.json", Content: "{}"}},
	}), func(c *exec.Cmd) {
		bind := func(path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			_ = l.Close()
		}
		if err := errors.Join(
			os.Mkdir(filepath.Join(c.Dir, "sub"), 0o700),
			os.WriteFile(filepath.Join(c.Dir, "file"), nil, 0o600),
			os.Symlink(other, filepath.Join(c.Dir, "out")),
			os.Symlink(filepath.Join(other, "api.sock"), filepath.Join(c.Dir, "link")),
		); err != nil {
			t.Fatal(err)
		}
		bind(filepath.Join(c.Dir, "api.sock"))
		bind(filepath.Join(c.Dir, "sub/api.sock"))
		bind(filepath.Join(other, "api.sock"))
	})
	if err := s.exit(); err == nil || !strings.Contains(s.log(), "out/api.sock") {
		t.Errorf("a way through a link out of the directory ended with %v: %s", err, s.log())
	}
	if got := names(t, s.dir); !slices.Equal(got, []string{"file", "link", "out", "sub"}) {
		t.Errorf("there is %q", got)
	}
	if got := names(t, other); !slices.Equal(got, []string{"api.sock"}) {
		t.Errorf("outside there is %q", got)
	}
}

func TestGeneratedFilesAreThereForTheHypervisorAlone(t *testing.T) {
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:      []string{"/bin/sh", "-c", "stat -c %a vm.json && cat vm.json >&2"},
		Generated: []hypervisor.GeneratedFile{{Path: "vm.json", Content: `{"secret": 1}`}},
	}), func(c *exec.Cmd) { c.Stdout = c.Stderr })
	if err := s.exit(); err != nil {
		t.Error(err)
	}
	if log := s.log(); !strings.Contains(log, "600\n{\"secret\": 1}") {
		t.Errorf("the hypervisor found %q", log)
	}
}

// TestRootBecomesTheUserThatThePlanNames before it creates files that the hypervisor
// writes, and before it runs programs of the package.
func TestRootBecomesTheUserThatThePlanNames(t *testing.T) {
	need.Root(t)
	s := launch(t, pack(t, &hypervisor.Plan{
		Argv:            []string{"/bin/sh", "-c", `cat config > copy; echo more >> data.img; echo "$(id -un) $1" > ran`, "sh"},
		User:            "nobody",
		PreStart:        "id -un > prepared",
		ExtraArgsScript: "id -un",
		Volumes:         []hypervisor.Volume{{Image: "data.img", SizeMiB: 8, AutoCreate: true, FSType: "ext4"}},
		Generated:       []hypervisor.GeneratedFile{{Path: "config", Content: "text"}},
	}), func(c *exec.Cmd) {
		c.Env = append(c.Env, "NOTIFY_SOCKET=")
		const nobody = 65534
		if err := os.Chown(c.Dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	})
	if err := s.exit(); err != nil {
		t.Fatalf("%v: %s", err, s.log())
	}
	for file, want := range map[string]string{"prepared": "nobody\n", "ran": "nobody nobody\n", "copy": "text"} {
		if got, err := os.ReadFile(filepath.Join(s.dir, file)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", file, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(s.dir, "data.img")); err != nil || info.Size() <= 8<<20 {
		t.Errorf("the hypervisor could not write to its volume: %v, %v", info, err)
	}
}

func TestRefusedStarts(t *testing.T) {
	cases := map[string]struct {
		plan hypervisor.Plan
		want string
		code int
	}{
		"a missing kernel": {hypervisor.Plan{Files: []hypervisor.File{{Role: "kernel", Path: "/absent/vmlinuz"}}},
			"kernel /absent/vmlinuz: no such file or directory\nmicrovm-run-wrapper: web: hint: put a readable file there", exit.CodeFailed},
		"a missing hypervisor": {hypervisor.Plan{Argv: []string{"no-such-hypervisor"}},
			"hypervisor no-such-hypervisor not found in PATH\n", exit.CodeFailed},
		"a missing tap": {hypervisor.Plan{Taps: []hypervisor.Tap{{ID: "vm-absent"}}},
			`tap interface "vm-absent" not found`, exit.CodeFailed},
		"a missing share": {hypervisor.Plan{Shares: []hypervisor.Share{{Tag: "home", Source: "/home", Socket: "home.sock"}}},
			`home.sock of share "home" not found`, exit.CodeFailed},
		"a failing preStart": {hypervisor.Plan{PreStart: "true\nfalse\ntouch too-far"},
			"preStart: exit status 1", exit.CodeFailed},
		"a failing extraArgsScript": {hypervisor.Plan{ExtraArgsScript: "exit 4"},
			"extraArgsScript exit 4: exit status 4", exit.CodeFailed},
		"a talkative extraArgsScript": {hypervisor.Plan{ExtraArgsScript: "echo a; echo b"},
			"more than one line", exit.CodeFailed},
		"an unknown placeholder": {hypervisor.Plan{Argv: []string{"/bin/true", "@{moon-phase}"}},
			`unknown placeholder "moon-phase"`, exit.CodeFailed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if len(c.plan.Argv) == 0 {
				c.plan.Argv = []string{"/bin/true"}
			}
			s := launch(t, pack(t, &c.plan))
			var ended *exec.ExitError
			if err := s.exit(); !errors.As(err, &ended) || ended.ExitCode() != c.code {
				t.Errorf("it ended with %v, want exit code %d", err, c.code)
			}
			log := s.log()
			// One line has the error, and others may have hints.
			lines := strings.Count(log, "\n") - strings.Count(log, ": hint: ")
			if !strings.Contains(log, c.want) || lines != 1 {
				t.Errorf("the log is %q, want one line with %q", log, c.want)
			}
			if left := names(t, s.dir); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
			s.silent(10 * time.Millisecond)
		})
	}
}

func TestUnwritableStateDirectoryIsRefused(t *testing.T) {
	need.Root(t)
	v := ext4(16)
	s := launch(t, pack(t, &hypervisor.Plan{Argv: []string{"/bin/true"}, Volumes: []hypervisor.Volume{v}}), func(c *exec.Cmd) {
		// Other users cannot reach the test's directories or this program.
		data, err := os.ReadFile(c.Path)
		if err != nil {
			t.Fatal(err)
		}
		c.Path = filepath.Join(filepath.Dir(c.Dir), "program")
		if err := errors.Join(os.WriteFile(c.Path, data, 0o755),
			os.Chmod(c.Dir, 0o755), os.Chmod(filepath.Dir(c.Dir), 0o755)); err != nil {
			t.Fatal(err)
		}
		open(t, c.Env)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	var ended *exec.ExitError
	if err := s.exit(); !errors.As(err, &ended) || ended.ExitCode() != exit.CodeFailed {
		t.Errorf("it ended with %v", err)
	}
	if log := s.log(); !strings.Contains(log, "permission denied\nmicrovm-run-wrapper: web: hint: make ") {
		t.Errorf("the log is %q", log)
	}
}

// open lets other users reach the package of a test.
func open(t *testing.T, env []string) {
	t.Helper()
	for _, v := range env {
		if dir, ok := strings.CutPrefix(v, rolePackage+"="); ok {
			if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// foreign is a package as microvm.nix builds it.
func foreign(t *testing.T, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestForeignPackageIsExecuted(t *testing.T) {
	s := launch(t, foreign(t, map[string]string{"microvm-run": `echo "pid $$ in $PWD" >&2`}))
	if got := s.told(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("the service manager was told %q", got)
	}
	if err := s.exit(); err != nil {
		t.Error(err)
	}
	if want := fmt.Sprintf("pid %d in %s\n", s.cmd.Process.Pid, s.dir); s.log() != want {
		t.Errorf("the log is %q, want %q", s.log(), want)
	}
}

// TestABridgeThatComesLaterIsWaitedFor: qemu-bridge-helper would only fail.
func TestABridgeThatComesLaterIsWaitedFor(t *testing.T) {
	need.Root(t)
	need.Program(t, "nsenter")
	need.Program(t, "ip")
	file := filepath.Join(t.TempDir(), "seen")
	plan := &hypervisor.Plan{Argv: []string{self(t)}, Bridge: true, Interfaces: []hypervisor.Interface{{Type: "bridge", ID: "eth0", MAC: "02:00:00:00:00:01", Bridge: "late0"}}, Env: []string{roleShow + "=" + file}}
	s := launch(t, pack(t, plan), func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET} })
	if got := s.told(); !strings.HasPrefix(got, "STATUS=waiting for bridge late0\nEXTEND_TIMEOUT_USEC=") {
		t.Errorf("the service manager was told %q", got)
	}
	const waiting = "microvm-run-wrapper: waiting for bridge late0, 30 s at most\n"
	testutil.Until(t, "a line about the wait", func() bool { return s.log() == waiting })
	s.silent(10 * time.Millisecond)
	out, err := exec.Command("nsenter", "-n", "-t", fmt.Sprint(s.cmd.Process.Pid), "ip", "link", "add", "late0", "type", "bridge").CombinedOutput()
	if err != nil {
		t.Fatalf("make the bridge: %v: %s", err, out)
	}
	for _, want := range []string{"STATUS=", "READY=1\nSTATUS=Executed stand-in\nNOTIFYACCESS=none"} {
		if got := s.told(); got != want {
			t.Errorf("the service manager was told %q, want %q", got, want)
		}
	}
	_ = seen(t, file)
	if log := s.log(); log != waiting {
		t.Errorf("the log is %q", log)
	}
}

func TestABridgeThatDoesNotComeIsNamed(t *testing.T) {
	for limit, most := range map[string]time.Duration{"0": 20 * time.Second, "1": 20 * time.Second} {
		began := time.Now()
		s := launch(t, pack(t, &hypervisor.Plan{Argv: []string{"/bin/true"}, Bridge: true, Interfaces: []hypervisor.Interface{{Type: "bridge", Bridge: "absent0"}}}),
			func(c *exec.Cmd) { c.Env = append(c.Env, "MICROVM_WAIT="+limit) })
		var ended *exec.ExitError
		if err := s.exit(); !errors.As(err, &ended) || ended.ExitCode() != exit.CodeFailed || time.Since(began) > most {
			t.Errorf("MICROVM_WAIT=%s: it ended with %v after %s", limit, err, time.Since(began))
		}
		if log := s.log(); !strings.Contains(log, `web: bridge "absent0" not found`) || !strings.Contains(log, "web: hint: create it") {
			t.Errorf("MICROVM_WAIT=%s: the log is %q", limit, log)
		}
	}
}

func TestAWaitEndsAtOnceWithSIGTERM(t *testing.T) {
	s := launch(t, pack(t, &hypervisor.Plan{Argv: []string{"/bin/true"}, Bridge: true, Interfaces: []hypervisor.Interface{{Type: "bridge", Bridge: "absent0"}}}))
	_ = s.told()
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.exit(); err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("it ended with %v after %s", err, time.Since(began))
	}
}

// TestOnlyDisksAreWaitedForByTheirPath: an image in memory is created.
func TestOnlyDisksAreWaitedForByTheirPath(t *testing.T) {
	got := devicePaths(&hypervisor.Plan{
		Files:   []hypervisor.File{{Role: "kernel", Path: "/boot/vmlinuz"}, {Role: "storeDisk", Path: "/dev/vg/store"}},
		Volumes: []hypervisor.Volume{{Image: "data.img"}, {Image: "/dev/shm/web.img"}, {Image: "/dev//disk/by-id/x"}, {Image: "/development/x"}},
	})
	if want := []string{"/dev/vg/store", "/dev/disk/by-id/x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestADiskThatComesLaterIsWaitedFor, for instance one on a slow bus.
func TestADiskThatComesLaterIsWaitedFor(t *testing.T) {
	need.Root(t)
	link := fmt.Sprintf("/dev/microvm-test-%d", os.Getpid())
	file := filepath.Join(t.TempDir(), "seen")
	s := launch(t, pack(t, &hypervisor.Plan{Argv: []string{self(t)}, Files: []hypervisor.File{{Role: "storeDisk", Path: link}}, Env: []string{roleShow + "=" + file}}))
	if got := s.told(); !strings.HasPrefix(got, "STATUS=waiting for "+link+"\n") {
		t.Errorf("the service manager was told %q", got)
	}
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(link) })
	_ = seen(t, file)
}
