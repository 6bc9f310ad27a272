package foreign

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// OnlyRoots makes sure that nobody but root can change what the path of a program
// leads to: every directory and link on the way, and the file itself. See
// safepath.ForProgram.
func OnlyRoots(path string) error {
	place, err := safepath.WalkTrusted(path, safepath.ForProgram)
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign:
		return fmt.Errorf("%s belongs to user %d, and root executes only what is root's; change its owner", u.Path, u.UID)
	case errors.As(err, &u):
		return fmt.Errorf("%s is writable by others than root; take that away with chmod go-w", u.Path)
	case err != nil:
		return err
	}
	defer place.Close()
	if place.Stat.Mode&unix.S_IFMT != unix.S_IFREG || place.Stat.Mode&0o111 == 0 {
		return fmt.Errorf("%s is no program", place.Path)
	}
	return nil
}
