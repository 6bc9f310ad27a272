package vm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// LockForeground prevents a second run of the VM in the foreground until unlock is
// called. It locks the VM's directory, so no lock file is left behind.
func LockForeground(v statedir.VM) (unlock func(), err error) {
	fd, err := unix.Open(v.Dir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of %s: %w", v.Name, err)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = unix.Close(fd)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s is already running in the foreground in another terminal", v.Name)
		return nil, exit.WithHint(err, "attach to it with: microvm console %s", v.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory of %s: %w", v.Name, err)
	}
	return func() { _ = unix.Close(fd) }, nil
}
