package statedir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// jailFile says whether the service manager, which is root, may follow path at
// any later start: only root can make it lead to something else, and it leads to
// a file, or to nothing yet. See safepath.ForJail.
func jailFile(path string) error {
	place, err := safepath.WalkTrusted(path, safepath.ForJail)
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign:
		return fmt.Errorf("%s belongs to user %d, who could put anything there; it has to be root's", u.Path, u.UID)
	case errors.As(err, &u):
		return fmt.Errorf("others than root can write to directory %s (mode %04o)", u.Path, u.Mode)
	case err != nil:
		return err
	}
	defer place.Close()
	if place.FD >= 0 && place.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errors.New("it is a directory, and a jail has files only")
	}
	return nil
}
