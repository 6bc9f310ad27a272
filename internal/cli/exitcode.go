package cli

import (
	"errors"
	"fmt"

	"microvm/internal/exit"
)

// Exit codes in addition to those that all our programs share.
const (
	// exitNoVM: a VM was not found.
	exitNoVM = 3
	// exitPartly: the command failed for some of several VMs.
	exitPartly = 4
	// exitCanceled: the job was canceled by another one.
	exitCanceled = 5
	// exitLate: the VM was not ready, or not down, in time.
	exitLate = 6
	// exitSkipped: a condition of the VM's unit was not met.
	exitSkipped = 7
)

// errNoVM is the error of a VM that does not exist.
type errNoVM struct{ name string }

func (e errNoVM) Error() string { return fmt.Sprintf("VM %q not found", e.name) }

// Hint returns how to find out which VMs exist.
func (errNoVM) Hint() string { return "list VMs with: microvm list" }

// jobFailure is the error of a job that failed, with its exit code.
type jobFailure struct {
	error
	code int
}

// Unwrap implements errors.Unwrap.
func (f jobFailure) Unwrap() error { return f.error }

// severalError is the errors of those of several VMs that failed.
type severalError struct {
	errs []error
	of   int // the number of VMs
}

// several returns one error for errs, in which nil stands for a VM that did not fail;
// of is the number of VMs. If it is 1, the error is that VM's own.
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

// Error implements error. It returns the errors one per line.
func (e severalError) Error() string { return errors.Join(e.errs...).Error() }

// Unwrap returns the errors of the VMs.
func (e severalError) Unwrap() []error { return e.errs }

// code returns the exit code: exitPartly if some VMs did not fail, and the code of each
// VM if all have failed with the same.
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

// codeOf returns the exit code of an error of one VM.
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
