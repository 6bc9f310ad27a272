package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// UntrustedError means that root refuses to read a package, as another user than root could
// have put it there, or could change it.
type UntrustedError struct {
	Path, Reason string
}

// Error implements error.
func (e *UntrustedError) Error() string {
	return fmt.Sprintf("%s is not trusted: %s", e.Path, e.Reason)
}

// Hint returns the remedy, for package exit.
func (*UntrustedError) Hint() string {
	return "make it writable by root alone (chown root, chmod go-w), or install the VM again"
}

// Permanent reports that no retry helps, to package exit.
func (*UntrustedError) Permanent() bool { return true }

// untrusted converts the error of a walk into an UntrustedError. If dir is not empty, the
// walk was beneath it.
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

// OpenTrusted follows link, such as /var/lib/microvms/web/booted, to a package and opens it.
// It returns an UntrustedError if another user than root could have created or changed it,
// by the rules of safepath.ForPackage.
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
