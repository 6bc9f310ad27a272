package stop

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/process"
	"microvm/test/need"
	"microvm/test/testutil"
)

// listenAt listens at path in this process.
func listenAt(t *testing.T, network, path string) {
	t.Helper()
	l, err := net.Listen(network, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// refused checks that no process behind the socket is accepted as the hypervisor.
func refused(t *testing.T, dir, socket, why string, users ...int) {
	t.Helper()
	p, err := SocketOwner(context.Background(), dir, socket, users...)
	if err == nil {
		t.Errorf("process %d is taken for the hypervisor in %s", p.PID(), dir)
		return
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want %q", err, why)
	}
}

func TestTheHypervisorIsFoundByItsSocket(t *testing.T) {
	v := victimOf(t, []string{roleQMP + "=0s"}, self(t))
	testutil.Until(t, "its socket", func() bool { _, err := os.Stat(filepath.Join(v.dir, "qmp.sock")); return err == nil })
	var p *process.Process
	testutil.Until(t, "that it listens", func() (ok bool) {
		var err error
		p, err = SocketOwner(t.Context(), v.dir, "qmp.sock", os.Geteuid())
		return err == nil
	})
	if p.PID() != v.cmd.Process.Pid {
		t.Errorf("the hypervisor is found as process %d; it is %d", p.PID(), v.cmd.Process.Pid)
	}
	refused(t, v.dir, "qmp.sock", "user", os.Geteuid()+1)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	<-v.end
	if p.Exists() {
		t.Error("it is there after its end")
	}
}

func TestCrosvmIsFoundByItsSocket(t *testing.T) {
	t.Chdir(t.TempDir())
	listenAt(t, "unixpacket", "crosvm.sock")
	if p, err := SocketOwner(t.Context(), ".", "crosvm.sock", os.Geteuid()); err != nil || p.PID() != os.Getpid() {
		t.Errorf("%v, %v", p, err)
	}
}

// TestNobodyElseIsTakenForTheHypervisor: its user can replace the socket so that it
// leads to another user's process, which the stop would end.
func TestNobodyElseIsTakenForTheHypervisor(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	listenAt(t, "unix", filepath.Join(elsewhere, "victim.sock"))
	if err := os.Symlink(filepath.Join(elsewhere, "victim.sock"), filepath.Join(dir, "link.sock")); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "link.sock", "too many levels of symbolic links", os.Geteuid())
	listenAt(t, "unix", filepath.Join(dir, "ours.sock"))
	refused(t, dir, "ours.sock", "does not run in "+dir, os.Geteuid())
	t.Chdir(dir)
	refused(t, dir, "ours.sock", "user", os.Geteuid()+1)
	refused(t, dir, "ours.sock", "user")
}

// TestTheNumberOfOneWhoIsGoneIsNobodys: the ID may be reused.
func TestTheNumberOfOneWhoIsGoneIsNobodys(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = socket.Close() }()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), roleListener+"=1")
	cmd.ExtraFiles = []*os.File{socket}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "s", "it has exited", os.Geteuid())
}

func TestRootRunsNoProgramOfAPackage(t *testing.T) {
	need.Root(t)
	v := victimOf(t, nil, "/bin/sleep", "60")
	r := foreign(t, "touch ran")
	r.Process, r.Dir, r.Logf = held(t, v.cmd.Process.Pid), v.dir, t.Logf
	if err := Hypervisor(t.Context(), r); err == nil || !strings.Contains(exit.Text(err), "\nhint: stop the VM as the user that runs it, or with: microvm stop NAME") {
		t.Errorf("%v, want a refusal", err)
	}
	if _, err := os.Stat(filepath.Join(v.dir, "ran")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it ran: %v", err)
	}
	select {
	case <-v.end:
		t.Error("the hypervisor was ended all the same")
	default:
	}
}
