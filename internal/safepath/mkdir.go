package safepath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// As is the mode and the owner to set on a file. -1 leaves the user or group
// unchanged, chown(2).
type As struct {
	Mode     uint32
	UID, GID int
}

// Mkdir creates the directory name in dir. The error is EEXIST if the name exists.
//
// A user who may write in dir can move the new directory away and put another in its
// place. So it is created with mode 0700, and what has the name then is checked
// before mode and owner are set. The error is ErrReplaced if it is not what was
// created.
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
	// The umask may have removed more bits. A new directory has no subdirectories,
	// each of which would add a link.
	if int(st.Uid) != os.Geteuid() || st.Mode&0o777&^private != 0 || st.Nlink > 2 {
		return ErrReplaced
	}
	if err := Chown(fd, as.UID, as.GID); err != nil {
		return err
	}
	return Chmod(fd, as.Mode)
}

// MkdirBeneath returns a handle of the directory rel beneath dir, creates what is
// missing, and follows no link. The caller closes the handle. The error is a
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

// ComponentError is an error at one component of a path.
type ComponentError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *ComponentError) Error() string { return fmt.Sprintf("directory %q: %v", e.Name, e.Err) }

// Unwrap returns the cause.
func (e *ComponentError) Unwrap() error { return e.Err }

// openOrMake returns a handle of the directory name in dir, which it creates if
// missing.
func openOrMake(dir int, name string, as As) (int, error) {
	fd, err := OpenDirBeneath(dir, name)
	if err != unix.ENOENT {
		return fd, err
	}
	// Another process may have created it meanwhile.
	if err := Mkdir(dir, name, as); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return OpenDirBeneath(dir, name)
}
