package safepath

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ErrNotDevice means that a file is not a character device, as required.
var ErrNotDevice = errors.New("not a character device")

// OpenNode returns a handle of the character device at path and its stat(2). The
// device itself is not opened, and path must not be a link. The caller closes the
// handle.
func OpenNode(path string) (int, *unix.Stat_t, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	st := new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		Close(fd)
		return -1, nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		Close(fd)
		return -1, nil, ErrNotDevice
	}
	return fd, st, nil
}

// GiveNode sets the mode and the owner of a device node, of which fd is a handle.
//
// The mode is set first: to change the mode of another user's file takes CAP_FOWNER,
// which the callers do not have. A node of another user is therefore given to root
// first. Descriptors that its former owner has open stay open.
func GiveNode(fd int, as As) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if int(st.Uid) == as.UID && int(st.Gid) == as.GID && st.Mode&0o7777 == as.Mode {
		return nil
	}
	if st.Uid != 0 {
		if err := Chown(fd, 0, 0); err != nil {
			return err
		}
	}
	if err := Chmod(fd, as.Mode); err != nil {
		return err
	}
	return Chown(fd, as.UID, as.GID)
}
