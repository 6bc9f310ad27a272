package foreign

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
	"microvm/internal/shell"
)

// OnlyRoots returns an error unless only root can change the program at path: every
// directory and link of the path, and the file itself. See safepath.ForProgram.
func OnlyRoots(path string) error {
	place, err := safepath.WalkTrusted(path, safepath.ForProgram)
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign:
		err := fmt.Errorf("%s is owned by uid %d, but root runs only programs that it owns", u.Path, u.UID)
		return exit.WithHint(err, "run: chown root %s", shell.Quote(u.Path))
	case errors.As(err, &u):
		err := fmt.Errorf("%s is writable by non-root users", u.Path)
		return exit.WithHint(err, "run: chmod go-w %s", shell.Quote(u.Path))
	case err != nil:
		return err
	}
	defer place.Close()
	if place.Stat.Mode&unix.S_IFMT != unix.S_IFREG || place.Stat.Mode&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", place.Path)
	}
	return nil
}
