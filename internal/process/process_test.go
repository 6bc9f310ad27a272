package process

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child starts a program, which is killed when the test ends.
func child(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// over returns the ID of a process that has exited.
func over(t *testing.T) int {
	t.Helper()
	cmd := child(t, "/bin/true")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestAProcessIsHeldToItsEnd(t *testing.T) {
	cmd := child(t, "/bin/sleep", "60")
	p, err := Hold(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	select {
	case <-p.Gone():
		t.Error("it is gone while it sleeps")
	default:
	}
	if !p.Exists() || p.PID() != cmd.Process.Pid {
		t.Errorf("process %d exists: %v", p.PID(), p.Exists())
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Gone():
	case <-time.After(time.Minute):
		t.Fatal("it was killed and is not gone")
	}
	if !p.Exists() {
		t.Error("its number is free before its parent has waited for it")
	}
	_ = cmd.Wait()
	if p.Exists() {
		t.Error("it exists after its end")
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to what is gone: %v", err)
	}
}

func TestTheEndIsSeenAfterTheRelease(t *testing.T) {
	cmd := child(t, "/bin/sleep", "60")
	p, err := Hold(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	_ = cmd.Process.Kill()
	select {
	case <-p.Gone():
	case <-time.After(time.Minute):
		t.Error("its end is not seen")
	}
}

func TestNobodyIsHeldForOneWhoIsGone(t *testing.T) {
	if p, err := Hold(over(t)); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

func TestTheUserOfAProcess(t *testing.T) {
	if uid, err := UserOf(os.Getpid()); err != nil || uid != os.Geteuid() {
		t.Errorf("this process is user %d's, %v", uid, err)
	}
	if uid, err := UserOf(over(t)); err == nil {
		t.Errorf("one that is gone is user %d's", uid)
	}
}

func TestOnlyProcessesOfTheUnitAreOfIt(t *testing.T) {
	if !SameUnit(os.Getpid()) {
		t.Error("this process is not of its own unit")
	}
	if SameUnit(over(t)) {
		t.Error("a process that is gone is of this unit")
	}
	p, err := HoldInUnit(child(t, "/bin/sleep", "60").Process.Pid)
	if err != nil || p == nil {
		t.Fatalf("a child, which is of this unit: %v, %v", p, err)
	}
	p.Release()
	if p, err := HoldInUnit(over(t)); p != nil || err != nil {
		t.Errorf("one that is gone: %v, %v", p, err)
	}
	other, err := os.ReadFile("/proc/1/cgroup")
	ours, ourErr := os.ReadFile("/proc/self/cgroup")
	if err != nil || ourErr != nil {
		t.Fatal(err, ourErr)
	}
	// Without a service manager, both may be in one control group.
	if p, err := HoldInUnit(1); err != nil || (p != nil) != (string(other) == string(ours)) {
		t.Errorf("process 1, of %q beside %q: %v, %v", other, ours, p, err)
	}
}

func TestThisProgramIsFound(t *testing.T) {
	ours, err := os.Stat(Self())
	if err != nil {
		t.Fatal(err)
	}
	running, err := os.Stat("/proc/self/exe")
	if err != nil || !os.SameFile(ours, running) {
		t.Errorf("%s is not this program: %v", Self(), err)
	}
}
