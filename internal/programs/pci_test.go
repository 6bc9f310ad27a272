package programs

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/statedir"
)

// TestLockOfAnotherUserHoldsNoDevicesUp: every user can open /run/microvm, and lock it.
func TestLockOfAnotherUserHoldsNoDevicesUp(t *testing.T) {
	host := statedir.Host{RuntimeDir: t.TempDir()}
	fd, err := unix.Open(host.RuntimeDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- withPCILock(host, func() error { return nil }) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the devices wait for another user's lock")
	}
}
