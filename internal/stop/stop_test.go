package stop

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/process"
	"microvm/internal/runner"
	"microvm/internal/systemd"
	"microvm/test/need"
	"microvm/test/testutil"
)

// quick are the stages of a stop in a test.
var quick = Times{Graceful: 8 * time.Second, Again: 300 * time.Millisecond, Term: 500 * time.Millisecond}

// victim is a hypervisor to be stopped.
type victim struct {
	dir string
	cmd *exec.Cmd
	end chan struct{}
}

func victimOf(t *testing.T, env []string, argv ...string) *victim {
	t.Helper()
	v := &victim{dir: t.TempDir(), cmd: exec.Command(argv[0], argv[1:]...), end: make(chan struct{})}
	v.cmd.Dir = v.dir
	v.cmd.Env = append(os.Environ(), env...)
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(v.end)
		_ = v.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		<-v.end
	})
	return v
}

// stop stops it and returns the log. The test fails if the process still runs
// afterwards: the service manager would kill it.
func (v *victim) stop(t *testing.T, r Request) (string, error) {
	t.Helper()
	var log testutil.Buffer
	r.Process, r.Dir, r.Logf = held(t, v.cmd.Process.Pid), v.dir, exit.Logger(&log, "test")
	// Hypervisor runs no program of a package as root, and this test may run as root.
	err := r.stop(context.Background())
	select {
	case <-v.end:
	case <-time.After(time.Minute):
		t.Error("stop returned and the hypervisor lives")
	}
	return log.String(), err
}

// held holds a process of a test.
func held(t *testing.T, pid int) *process.Process {
	t.Helper()
	p, err := process.Hold(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func qmpPlan(method string) *hypervisor.Plan {
	return &hypervisor.Plan{
		Shutdown: hypervisor.Shutdown{Method: method, Control: &hypervisor.Control{Method: "qmp", Socket: "qmp.sock"}},
	}
}

func inOrder(t *testing.T, log string, parts ...string) {
	t.Helper()
	rest := log
	for _, p := range parts {
		_, after, found := strings.Cut(rest, p)
		if !found {
			t.Errorf("the log has no %q where it belongs:\n%s", p, log)
			return
		}
		rest = after
	}
}

func TestGuestIsAskedAgainAndWaitedFor(t *testing.T) {
	for _, method := range []string{hypervisor.ShutdownCtrlAltDel, hypervisor.ShutdownPowerButton} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			// It takes longer to go down than the time after which it is asked again.
			v := victimOf(t, []string{roleQMP + "=600ms"}, self(t))
			log, err := v.stop(t, Request{Plan: qmpPlan(method), Times: Times{Graceful: 10 * time.Second, Again: 300 * time.Millisecond, Term: time.Second}})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(v.dir, "synced")); err != nil {
				t.Errorf("the guest did not get to the end: %v", err)
			}
			inOrder(t, log, "asking the guest to go down by "+method, "has not reacted", "the guest goes down", "exited after")
			if strings.Contains(log, "SIG") {
				t.Errorf("force was used:\n%s", log)
			}
		})
	}
}

func TestGuestThatIgnoresTheRequestIsEndedByForce(t *testing.T) {
	t.Parallel()
	program := need.Program(t, "qemu-system-x86_64")
	v := victimOf(t, nil, program, "-M", "q35,accel=tcg", "-m", "32", "-S", "-display", "none", "-nodefaults", "-qmp", "unix:qmp.sock,server=on,wait=off")
	log, err := v.stop(t, Request{Plan: qmpPlan(hypervisor.ShutdownPowerButton), Times: quick})
	if err != nil {
		t.Error(err)
	}
	inOrder(t, log, "asking the guest", "has not reacted", "did not go down within", "SIGTERM", "exited after SIGTERM")
	if code := v.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("QEMU exited with %d", code)
	}
}

func TestHypervisorThatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	v := victimOf(t, nil, "/bin/sh", "-c", "trap '' TERM; touch deaf; while :; do sleep 0.1; done")
	testutil.Until(t, "deafness", func() bool { _, err := os.Stat(filepath.Join(v.dir, "deaf")); return err == nil })
	plan := &hypervisor.Plan{Shutdown: hypervisor.Shutdown{Method: hypervisor.ShutdownNone, Why: "it has no way"}}
	began := time.Now()
	log, err := v.stop(t, Request{Plan: plan, Times: quick})
	if err != nil {
		t.Error(err)
	}
	inOrder(t, log, "cannot be asked to go down: it has no way", "SIGTERM", "SIGKILL")
	if took := time.Since(began); took > quick.Graceful {
		t.Errorf("it took %s: there was nothing to wait for before SIGTERM", took)
	}
}

func TestHypervisorWithoutItsSocketIsEndedByForce(t *testing.T) {
	t.Parallel()
	v := victimOf(t, nil, "/bin/sleep", "60")
	log, err := v.stop(t, Request{Plan: qmpPlan(hypervisor.ShutdownCtrlAltDel), Times: quick})
	if err != nil {
		t.Error(err)
	}
	inOrder(t, log, "qmp.sock", "trying again", "SIGTERM")
	if n := strings.Count(log, "trying again"); n != 1 {
		t.Errorf("the same trouble is logged %d times:\n%s", n, log)
	}
}

func TestStopOfWhatIsGoneSucceeds(t *testing.T) {
	v := victimOf(t, nil, "/bin/true")
	<-v.end
	if _, err := v.stop(t, Request{Plan: qmpPlan(hypervisor.ShutdownCtrlAltDel), Times: quick}); err != nil {
		t.Error(err)
	}
}

// foreign is a stop of a package as microvm.nix builds it, with a shutdown program of
// that text.
func foreign(t *testing.T, text string) Request {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, runner.ShutdownProgram), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Request{Plan: &hypervisor.Plan{Foreign: true, Shutdown: hypervisor.Shutdown{Method: hypervisor.ShutdownScript}}, Package: dir, Times: quick}
}

func TestForeignShutdownIsRunAndWaitedFor(t *testing.T) {
	cases := map[string]struct {
		script string
		want   []string
		forced bool
	}{
		"one that returns early":    {"echo going down; kill -USR1 $(cat pid)", []string{"microvm-shutdown: going down", "exited after"}, false},
		"one that waits as well":    {"kill -USR1 $(cat pid); while kill -0 $(cat pid); do sleep 0.1; done 2>/dev/null; sleep 60", []string{"exited after"}, false},
		"one that says more":        {"printf 'going\\033]0;x\\007 down\\n'; kill -USR1 $(cat pid)", []string{"microvm-shutdown: going]0;x down\n", "exited after"}, false},
		"one that fails":            {"echo no socket >&2; exit 1", []string{"microvm-shutdown: no socket", "exit status 1", "SIGTERM"}, true},
		"one that leaves a process": {"sleep 60 & kill -USR1 $(cat pid)", []string{"exited after"}, false},
		"one that hangs":            {"sleep 60 & sleep 60", []string{"signal: killed", "SIGTERM"}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := victimOf(t, nil, "/bin/sh", "-c", "trap 'sleep 0.7; exit 0' USR1; echo $$ >pid.new; mv pid.new pid; while :; do sleep 0.05; done")
			testutil.Until(t, "the hypervisor's start", func() bool { _, err := os.Stat(filepath.Join(v.dir, "pid")); return err == nil })
			began := time.Now()
			log, err := v.stop(t, foreign(t, c.script))
			if err != nil {
				t.Error(err)
			}
			inOrder(t, log, c.want...)
			if forced := strings.Contains(log, "SIGTERM"); forced != c.forced {
				t.Errorf("ended by force: %v, want %v:\n%s", forced, c.forced, log)
			}
			if took := time.Since(began); took > 40*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestStopFitsIntoTheUnitsTime(t *testing.T) {
	for _, total := range []time.Duration{time.Second, 6 * time.Second, 90 * time.Second, time.Hour} {
		s := Within(total)
		if s.Graceful <= 0 || s.Term <= 0 || s.Graceful+s.Term >= total {
			t.Errorf("of %s it takes %s and %s", total, s.Graceful, s.Term)
		}
	}
}

// TestAStopWithoutLimitWaits: an overflow of the time would end it at once.
func TestAStopWithoutLimitWaits(t *testing.T) {
	s := Within(systemd.Infinity)
	ctx, cancel := context.WithTimeout(context.Background(), s.Graceful)
	defer cancel()
	if over(ctx) {
		t.Error("it is over at once")
	}
	if s.Login > time.Hour || s.Term != DefaultTimes.Term || s.Again != DefaultTimes.Again {
		t.Errorf("what is no wait for the guest has no limit either: %+v", s)
	}
}
