package stop

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/guest/sshserver"
	"microvm/test/need"
	"microvm/test/testutil"
)

// sshTimes leave a login more time than a busy machine needs.
var sshTimes = Times{Graceful: 5 * time.Second, Again: time.Second, Login: 20 * time.Second, Term: 500 * time.Millisecond}

func sshPlan() *hypervisor.Plan {
	cid := int64(3)
	return &hypervisor.Plan{
		VsockCID:  &cid,
		Readiness: hypervisor.Readiness{Mode: hypervisor.ReadyNone},
		Shutdown: hypervisor.Shutdown{Method: hypervisor.ShutdownGuestOverSSH, SSH: &hypervisor.SSH{
			Key: hypervisor.ShutdownKeyFile, Command: "go down", VsockSocket: "v.sock",
		}},
	}
}

// startForSSH starts a VM whose guest is asked over SSH; it returns the VM and the
// key's line that the guest was given.
func startForSSH(t *testing.T) (v *victim, line string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "line")
	v = victimOf(t, []string{roleKey + "=" + file}, self(t))
	testutil.Until(t, "the key", func() bool { _, err := os.Stat(file); return err == nil })
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return v, string(data)
}

// muxGuest takes connections as a hypervisor's multiplexer does: Cloud Hypervisor 54.0
// and Firecracker 1.17.0-dev count their own ports from 1<<30 on.
func muxGuest(t *testing.T, dir string, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := io.ReadFull(conn, make([]byte, len("CONNECT 22\n"))); err != nil {
					return
				}
				if _, err := io.WriteString(conn, "OK 1073741824\n"); err == nil {
					handle(conn)
				}
			}()
		}
	}()
}

// stopOverSSH stops v and returns the log.
func stopOverSSH(t *testing.T, v *victim, times Times) string {
	t.Helper()
	log, err := v.stop(t, Request{Plan: sshPlan(), Times: times})
	if err != nil {
		t.Error(err)
	}
	if v.cmd.ProcessState.Success() {
		t.Error("the stand-in, which ends by a signal only, ended without")
	}
	left, err := filepath.Glob(filepath.Join(v.dir, hypervisor.ShutdownKeyFile+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left of the key: %q, %v", left, err)
	}
	return log
}

func TestAGuestIsAskedWithTheKeyOfItsStart(t *testing.T) {
	v, line := startForSSH(t)
	if p, err := KeyOwner(v.dir, hypervisor.ShutdownKeyFile); err != nil || p.PID() != v.cmd.Process.Pid {
		t.Errorf("the hypervisor is found as process %v, %v; it is %d", p, err, v.cmd.Process.Pid)
	}
	if p, err := KeyOwner(t.TempDir(), hypervisor.ShutdownKeyFile); err == nil {
		t.Errorf("in another directory process %d is found", p.PID())
	}
	t.Run("not with another user's", func(t *testing.T) {
		need.Root(t)
		theirs := t.TempDir()
		data, err := os.ReadFile(filepath.Join(v.dir, hypervisor.ShutdownKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(theirs, "key")
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chown(path, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		if p, err := KeyOwner(theirs, "key"); err == nil || !strings.Contains(exit.Text(err), "\nhint: stop the VM as that user, or with: microvm stop NAME") {
			t.Errorf("another user's word counts for root: %v, %v", p, err)
		}
	})
	told := make(chan string, 1)
	muxGuest(t, v.dir, func(conn net.Conn) {
		_ = sshserver.Serve(conn, line, func(command string) int {
			told <- command
			time.AfterFunc(300*time.Millisecond, func() { _ = v.cmd.Process.Kill() })
			return 0
		})
	})
	log := stopOverSSH(t, v, sshTimes)
	inOrder(t, log, "asking the guest to go down by ssh-over-vsock", `the guest runs "go down"`, "the guest goes down", "exited after")
	if strings.Contains(log, "SIG") {
		t.Errorf("force was used:\n%s", log)
	}
	if got := <-told; got != "go down" {
		t.Errorf("the guest was told %q", got)
	}
}

func TestAGuestThatCannotBeAskedOverSSHIsEndedByForce(t *testing.T) {
	wait := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	serve := func(status int) func(line string) func(net.Conn) {
		return func(line string) func(net.Conn) {
			return func(conn net.Conn) { _ = sshserver.Serve(conn, line, func(string) int { return status }) }
		}
	}
	always := func(f func(net.Conn)) func(string) func(net.Conn) {
		return func(string) func(net.Conn) { return f }
	}
	cases := map[string]struct {
		guest func(line string) func(net.Conn)
		login time.Duration
		want  []string
		least time.Duration
	}{
		"silent":  {always(wait), 500 * time.Millisecond, []string{"does not answer within 500ms", "SIGTERM"}, 0},
		"garbage": {always(func(c net.Conn) { _, _ = c.Write(make([]byte, 1024)); wait(c) }), 20 * time.Second, []string{"cannot be asked over ssh", "SIGTERM"}, 0},
		"another key": {func(string) func(net.Conn) {
			return serve(0)("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")
		}, 20 * time.Second, []string{"refuses the key", "SIGTERM"}, 0},
		"fails": {serve(3), 20 * time.Second, []string{"status 3", "SIGTERM"}, 0},
		// It has agreed to go down, and gets the time for it.
		"agrees and hangs": {serve(-1), 20 * time.Second, []string{`the guest runs "go down"`, "did not go down within", "SIGTERM"}, time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, line := startForSSH(t)
			muxGuest(t, v.dir, c.guest(line))
			times := sshTimes
			times.Graceful, times.Login = time.Minute, c.login
			if c.least > 0 {
				times.Graceful = 8 * time.Second
			}
			began := time.Now()
			inOrder(t, stopOverSSH(t, v, times), c.want...)
			if took := time.Since(began); took < c.least || c.least == 0 && took > 40*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestAGuestWithoutAnSSHServerIsEndedAtOnce(t *testing.T) {
	v, _ := startForSSH(t)
	if err := os.Remove(filepath.Join(v.dir, hypervisor.ShutdownKeyFile)); err != nil {
		t.Fatal(err)
	}
	inOrder(t, stopOverSSH(t, v, sshTimes), "cannot be asked over ssh: read the key", "SIGTERM")
}
