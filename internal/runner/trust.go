package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// UntrustedError says why root will not read a package: somebody else than
// root could have put it there, or could change it meanwhile.
type UntrustedError struct {
	Path, Reason string
}

// Error implements error.
func (e *UntrustedError) Error() string {
	return fmt.Sprintf("%s is not trusted: %s; give it to root alone (chown root, chmod go-w), or install the VM again", e.Path, e.Reason)
}

// untrusted makes an UntrustedError of that of a walk, beneath dir where that is
// not empty.
func untrusted(err error, dir string) error {
	var u *safepath.UntrustedError
	if !errors.As(err, &u) {
		return err
	}
	path := u.Path
	if dir != "" {
		path = dir + "/" + path
	}
	return &UntrustedError{path, u.Reason()}
}

// OpenTrusted follows link, such as /var/lib/microvms/web/booted, to a package
// and opens it, if nobody but root could have made or changed any of it, by
// safepath.ForPackage. Anything else is an UntrustedError.
func OpenTrusted(link string) (*Package, error) {
	place, err := safepath.WalkTrusted(link, safepath.ForPackage)
	if err != nil {
		return nil, untrusted(err, "")
	}
	defer place.Close()
	fd, err := unix.Openat(place.FD, ".", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open runner package %s: %w", place.Path, err)
	}
	return &Package{dir: os.NewFile(uintptr(fd), place.Path), path: place.Path, trusted: true}, nil
}
