package statedir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// jailFile returns an error unless systemd, as root, may follow path at any later
// start: only root can change where it leads, and it leads to a file or does not exist
// yet. See safepath.ForJail.
func jailFile(path string) error {
	place, err := safepath.WalkTrusted(path, safepath.ForJail)
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign:
		return fmt.Errorf("%s is owned by uid %d, not by root", u.Path, u.UID)
	case errors.As(err, &u):
		return fmt.Errorf("directory %s is writable by non-root users (mode %04o)", u.Path, u.Mode)
	case err != nil:
		return err
	}
	defer place.Close()
	if place.FD >= 0 && place.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errors.New("it is a directory, not a file")
	}
	return nil
}
