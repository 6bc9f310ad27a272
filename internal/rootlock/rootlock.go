// Package rootlock is the lock of a directory of root's that everybody can read.
//
// A lock on the directory itself is not root's alone: flock(2) asks for no more
// than an open file, so that any user of the host could hold it, and with it
// whoever waits for it, for as long as he likes.
package rootlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/mode"
)

// Name is the lock's file. It stays, for a lock whose file is removed is none;
// no VM's name begins with a dot.
const Name = ".lock"

// Take makes dir where it is missing, waits until nobody else has its lock, and
// has it until unlock is called or this process ends.
func Take(dir string) (unlock func(), err error) {
	if err := mode.DirAll(dir, mode.Public); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, Name)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock %s: %w", path, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0) {
		err = fmt.Errorf("it is not a file that only user %d can open, so that others could hold it for ever; remove it with: rm -r %s", os.Geteuid(), path)
	}
	if err == nil && st.Mode&0o777 != 0o600 { // the umask that it was made with
		err = unix.Fchmod(fd, 0o600)
	}
	for locking := err == nil; locking; locking = errors.Is(err, unix.EINTR) {
		err = unix.Flock(fd, unix.LOCK_EX)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = unix.Close(fd) }, nil
}
