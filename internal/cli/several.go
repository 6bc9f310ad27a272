package cli

import (
	"errors"

	"microvm/internal/exit"
)

// severalError is what went wrong with some of several VMs.
type severalError struct {
	errs []error
	of   int
}

// several makes one error of those of the VMs that failed, of all that were
// asked for. With one VM it is that VM's own.
func several(errs []error, of int) error {
	failed := make([]error, 0, len(errs))
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case of == 1:
		return failed[0]
	}
	return severalError{failed, of}
}

// Error implements error, a line a VM.
func (e severalError) Error() string { return errors.Join(e.errs...).Error() }

// Unwrap returns the errors of the VMs.
func (e severalError) Unwrap() []error { return e.errs }

// code is the exit code: 4 where some went well; where all went wrong in the
// same way, that of each.
func (e severalError) code() int {
	if len(e.errs) < e.of {
		return exitPartly
	}
	code := codeOf(e.errs[0])
	for _, err := range e.errs {
		if codeOf(err) != code {
			return exit.CodeFailed
		}
	}
	return code
}
