// Package helper holds what the small programs behind the unit templates do
// with their arguments: it reads the VM's package and hands plain values to the
// package that does the work.
package helper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"microvm/internal/printable"
	"microvm/internal/runner"
	"microvm/internal/spec"
	"microvm/internal/statedir"
)

// Exit codes of the helpers.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
	// ExitConfig is EX_CONFIG of sysexits.h: the package or its place is bad,
	// and no retry can help. The units do not restart on it.
	ExitConfig = 78
)

// usageError is a wrong command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// Usage is the error of a wrong command line.
func Usage(text string) error { return usageError(text) }

// Report prints err, where there is one, as lines that begin with the program's
// name, and returns the exit code that it deserves. Hypervisors, guests and
// builds have a say in an error, and root's terminal does not obey them.
func Report(stderr io.Writer, program, vm string, err error) int {
	if err == nil {
		return ExitOK
	}
	prefix := program + ": "
	if vm != "" {
		prefix += vm + ": "
	}
	for line := range strings.Lines(printable.Text(err.Error())) {
		_, _ = fmt.Fprintln(stderr, prefix+strings.TrimRight(line, "\n"))
	}
	return ExitCode(err)
}

// ExitCode is the exit code that err deserves.
func ExitCode(err error) int {
	var usage usageError
	var untrusted *runner.UntrustedError
	var faults spec.Faults
	var config *ConfigError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, new(*mendableError)):
		return ExitFailed
	case interrupted(err):
		return ExitStopped
	case errors.As(err, &untrusted), errors.As(err, &faults), errors.As(err, &config):
		return ExitConfig
	}
	return ExitFailed
}

// PackageError is err of reading vm's package. A package that is not as it should be
// stays so; one that cannot be read, or is not there though it was installed, may
// be on a disk that is mounted later.
func PackageError(vm statedir.VM, err error) error {
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if vm.Installed() {
			return err
		}
	case errors.As(err, &errno):
		return err
	}
	return Config(err)
}

// mendableError is an error that a retry can help, whatever it wraps.
type mendableError struct{ err error }

func (e *mendableError) Error() string { return e.err.Error() }
func (e *mendableError) Unwrap() error { return e.err }

// Mendable marks err as one that a retry can help: the operator mends it, or time
// does, without a new installation.
func Mendable(err error) error {
	if err == nil {
		return nil
	}
	return &mendableError{err}
}

// ConfigError is a fault of the package or the host's configuration that a
// retry cannot help.
type ConfigError struct{ Err error }

// Error implements error.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// Config marks err as a ConfigError.
func Config(err error) error {
	if err == nil {
		return nil
	}
	return &ConfigError{err}
}
