// Package rootlock locks a directory that root owns and every user can read.
//
// The lock is a file of its own that only root can open. The directory itself will
// not do: flock(2) needs no more than an open file, so any user who can read the
// directory could hold the lock and block root for as long as they like.
package rootlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/mode"
)

// Name is the file name of the lock. The file is never removed: a process that
// waits for a removed file would lock nothing. No VM's name begins with a dot.
const Name = ".lock"

// Take locks dir, which it creates if missing, and waits as long as another process
// holds the lock. The lock is released by unlock, or when this process ends.
func Take(dir string) (unlock func(), err error) {
	if err := mode.DirAll(dir, mode.Public); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, Name)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file %s: %w", path, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0) {
		err = fmt.Errorf("lock file must be owned by uid %d with mode 0600, or any user could block us", os.Geteuid())
		err = exit.WithHint(err, "remove it with: rm -r %s", path)
	}
	if err == nil && st.Mode&0o777 != 0o600 { // it was created with a stricter umask
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
