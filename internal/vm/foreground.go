package vm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/statedir"
)

// LockForeground keeps a second run of the same VM in the foreground away, until
// unlock is called. The lock is on the VM's
// directory, so that no file is left over.
func LockForeground(v statedir.VM) (unlock func(), err error) {
	fd, err := unix.Open(v.Dir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the directory of %s: %w", v.Name, err)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = unix.Close(fd)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s is being run in another foreground; attach to it with: microvm console %s", v.Name, v.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the directory of %s: %w", v.Name, err)
	}
	return func() { _ = unix.Close(fd) }, nil
}
