package cli

import (
	"errors"
	"fmt"

	"microvm/internal/exit"
)

// Exit codes beside those of every program of ours.
const (
	// exitNoVM: there is no such VM.
	exitNoVM = 3
	// exitPartly: some of several VMs failed.
	exitPartly = 4
	// exitCanceled: somebody else took back what was asked.
	exitCanceled = 5
	// exitLate: the VM was not ready, or not down, within its time.
	exitLate = 6
	// exitSkipped: a condition of the VM's unit does not hold.
	exitSkipped = 7
)

// errNoVM is a VM that does not exist.
type errNoVM struct{ name, dir string }

func (e errNoVM) Error() string {
	return fmt.Sprintf("there is no VM %q in %s; see what there is with: microvm list", e.name, e.dir)
}

// jobFailure is a job that did not do what was asked, with its exit code.
type jobFailure struct {
	error
	code int
}

// Unwrap implements errors.Unwrap.
func (f jobFailure) Unwrap() error { return f.error }

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

// codeOf is the exit code of an error of one VM.
func codeOf(err error) int {
	var missing errNoVM
	var failure jobFailure
	switch {
	case errors.As(err, &missing):
		return exitNoVM
	case errors.As(err, &failure):
		return failure.code
	}
	return exit.CodeFailed
}
