package safepath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// As is the mode and the owner that something is to have. A user or group of -1 is
// left as it is, chown(2).
type As struct {
	Mode     uint32
	UID, GID int
}

// Mkdir makes the directory name in dir. The error is EEXIST where the name is
// taken.
//
// It is private at first: who may write in dir can move it away and put another
// directory in its place, so what is found under the name is looked at before it
// changes hands. ErrReplaced is the error where it is not what was made.
func Mkdir(dir int, name string, as As) error {
	const private = 0o700
	if err := unix.Mkdirat(dir, name, private); err != nil {
		return err
	}
	fd, err := OpenDirBeneath(dir, name)
	if err != nil {
		return err
	}
	defer Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// A umask may have taken more away. A directory that was just made has no
	// directories in it, which would be links to it, too.
	if int(st.Uid) != os.Geteuid() || st.Mode&0o777&^private != 0 || st.Nlink > 2 {
		return ErrReplaced
	}
	if err := Chown(fd, as.UID, as.GID); err != nil {
		return err
	}
	return Chmod(fd, as.Mode)
}

// MkdirBeneath opens the directory rel beneath dir, makes what is missing of it,
// and follows no link. The caller closes the handle. The error is a
// *ComponentError.
func MkdirBeneath(dir int, rel string, as As) (int, error) {
	if filepath.IsAbs(rel) {
		return -1, &ComponentError{rel, unix.EXDEV}
	}
	at, err := OpenDirBeneath(dir, ".")
	if err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(filepath.Clean(rel), "/") {
		next, err := openOrMake(at, name, as)
		Close(at)
		if err != nil {
			return -1, &ComponentError{name, err}
		}
		at = next
	}
	return at, nil
}

// ComponentError tells on which component of a path something failed.
type ComponentError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *ComponentError) Error() string { return fmt.Sprintf("directory %q: %v", e.Name, e.Err) }

// Unwrap returns the cause.
func (e *ComponentError) Unwrap() error { return e.Err }

// openOrMake returns a handle of the directory name in dir.
func openOrMake(dir int, name string, as As) (int, error) {
	fd, err := OpenDirBeneath(dir, name)
	if err != unix.ENOENT {
		return fd, err
	}
	// Somebody who makes it at the same time is as good.
	if err := Mkdir(dir, name, as); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return OpenDirBeneath(dir, name)
}
