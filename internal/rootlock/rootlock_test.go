package rootlock

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

const role = "ROOTLOCK_TEST_OPEN"

// TestMain lets this program run as another user, who tries to open the lock.
func TestMain(m *testing.M) {
	path := os.Getenv(role)
	if path == "" {
		os.Exit(m.Run())
	}
	if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd)
		os.Exit(3)
	}
	os.Exit(0)
}

// soon takes the lock, and fails if it has to wait for it.
func soon(t *testing.T, dir string) func() {
	t.Helper()
	got := make(chan func(), 1)
	go func() {
		unlock, err := Take(dir)
		if err != nil {
			t.Error(err)
		}
		got <- unlock
	}()
	select {
	case unlock := <-got:
		return unlock
	case <-time.After(time.Minute):
		t.Fatal("timed out waiting for the lock")
		return nil
	}
}

func TestWhoeverLocksTheDirectoryStopsNobody(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	soon(t, dir)()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	soon(t, dir)()
}

func TestOneHasItAtATime(t *testing.T) {
	dir := t.TempDir()
	unlock := soon(t, dir)
	second := make(chan struct{})
	go func() {
		defer close(second)
		if unlock, err := Take(dir); err == nil {
			unlock()
		}
	}()
	select {
	case <-second:
		t.Fatal("two have the lock")
	case <-time.After(100 * time.Millisecond):
	}
	unlock()
	<-second
}

func TestOthersCannotOpenTheLock(t *testing.T) {
	// As in /run/microvm, whatever the test's own directory is.
	dir, err := os.MkdirTemp("/tmp", "rootlock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0)
	soon(t, dir)()
	unix.Umask(old)
	info, err := os.Lstat(filepath.Join(dir, Name))
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("the lock is %v, %v; want a file of mode 0600", info.Mode(), err)
	}
	t.Run("another user", func(t *testing.T) { othersCannotOpen(t, dir) })
}

func othersCannotOpen(t *testing.T, dir string) {
	need.Root(t) // without root, only the mode was checked above
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "other")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), role+"="+filepath.Join(dir, Name))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("another user opens the lock: %v %s", err, out)
	}
}

func TestALinkIsNoLock(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("elsewhere", filepath.Join(dir, Name)); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v, want ELOOP", err)
	}
}
