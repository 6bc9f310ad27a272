// Package exit turns an error into the exit code and the messages with which a
// program ends.
//
// An error carries what these depend on: whether the command line was wrong,
// whether a retry can help, and hints. Packages mark their errors with the
// functions of this package, and every main ends with Report. An error without a
// mark exits with CodeFailed.
package exit

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"microvm/internal/printable"
)

// Exit codes of every program. The microvm command has more of its own.
const (
	CodeOK     = 0
	CodeFailed = 1
	// CodeUsage is a wrong command line.
	CodeUsage = 2
	// CodeConfig is EX_CONFIG of sysexits(3): the package or where it is installed
	// is invalid, and no retry can help. The units do not restart on it.
	CodeConfig = 78
	// CodeInterrupted means that SIGTERM or SIGINT ended the program while it
	// waited and had done nothing yet. It is a shell's code for SIGTERM, 128+15,
	// and in SuccessExitStatus= of the units.
	CodeInterrupted = 143
)

// class is a kind of error, with an exit code of its own.
type class int

const (
	usage class = iota
	retry
	interrupted
	config
)

// marked is an error with a class. Its text is that of its cause.
type marked struct {
	error
	class class
}

// Unwrap returns the cause.
func (m *marked) Unwrap() error { return m.error }

func mark(err error, c class) error {
	if err == nil {
		return nil
	}
	return &marked{err, c}
}

// Usage marks err as a wrong command line. A nil err stays nil.
func Usage(err error) error { return mark(err, usage) }

// Usagef is Usage of fmt.Errorf.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// Config marks err as a fault of the package or of the host's configuration, which
// no retry can help. A nil err stays nil.
func Config(err error) error { return mark(err, config) }

// Configf is Config of fmt.Errorf.
func Configf(format string, args ...any) error { return Config(fmt.Errorf(format, args...)) }

// Retry marks err as one that a retry can help, whatever it wraps: it goes away
// with time or when the operator fixes it, without a new installation. A nil err
// stays nil.
func Retry(err error) error { return mark(err, retry) }

// Interrupted marks err as a wait that a signal ended. A nil err stays nil.
func Interrupted(err error) error { return mark(err, interrupted) }

// permanent is implemented by errors of other packages to report whether no retry
// can help.
type permanent interface{ Permanent() bool }

// IsUsage reports whether err is, or wraps, an error marked by Usage.
func IsUsage(err error) bool { return is(err, usage) }

// IsConfig reports whether err is, or wraps, an error that no retry can help: one
// marked by Config, or one whose method Permanent() bool returns true.
func IsConfig(err error) bool {
	var p permanent
	return is(err, config) || errors.As(err, &p) && p.Permanent()
}

// is reports whether err, or an error that it wraps, is marked as c.
func is(err error, c class) bool {
	found := false
	walk(err, func(err error) {
		m, ok := err.(*marked)
		found = found || ok && m.class == c
	})
	return found
}

// walk calls visit for every error of the tree that errors.Is searches: causes
// before what wraps them, joined errors in their order.
func walk(err error, visit func(error)) {
	switch e := err.(type) {
	case nil:
		return
	case interface{ Unwrap() error }:
		walk(e.Unwrap(), visit)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			walk(cause, visit)
		}
	}
	visit(err)
}

// Code returns the exit code for err: CodeOK for nil, CodeFailed for an error
// without a mark.
func Code(err error) int {
	switch {
	case err == nil:
		return CodeOK
	case is(err, usage):
		return CodeUsage
	case is(err, retry):
		return CodeFailed
	case is(err, interrupted):
		return CodeInterrupted
	case IsConfig(err):
		return CodeConfig
	}
	return CodeFailed
}

// Report prints err with its hints to stderr and returns the exit code for it.
// Each line begins with the program's name and, unless vm is empty, the VM's. A
// nil err prints nothing. Errors can contain text from hypervisors, guests and
// builds, so control sequences are stripped.
func Report(stderr io.Writer, program, vm string, err error) int {
	if err == nil {
		return CodeOK
	}
	prefix := program + ": "
	if vm != "" {
		prefix += vm + ": "
	}
	for line := range strings.Lines(printable.Text(Text(err))) {
		_, _ = fmt.Fprintln(stderr, prefix+strings.TrimRight(line, "\n"))
	}
	return Code(err)
}
