// Package exit says how a program of ours ends: with which code, and with what
// it prints of the error that ended it.
//
// An error carries what the end depends on: whether the command line was wrong,
// whether a retry can help, and the remedy. Every program and every package that
// is not content with "failed" marks its errors by the functions of this package,
// and main ends by Report.
package exit

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"microvm/internal/printable"
)

// Exit codes of every program. The microvm command has others besides.
const (
	CodeOK     = 0
	CodeFailed = 1
	// CodeUsage is a wrong command line.
	CodeUsage = 2
	// CodeConfig is EX_CONFIG of sysexits(3): the package or its place is bad, and
	// no retry can help. The units do not restart on it.
	CodeConfig = 78
	// CodeInterrupted is that of a program which SIGTERM or SIGINT ended while it
	// waited, with nothing done yet. It is what a shell makes of SIGTERM, 128+15,
	// and SuccessExitStatus= of the units.
	CodeInterrupted = 143
)

// class is what an error is marked as.
type class int

const (
	usage class = iota
	retry
	interrupted
	config
)

// marked is an error of a class; its text is that of its cause.
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

// Usagef makes an error of a wrong command line, as fmt.Errorf does.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// Config marks err as a fault of the package or of the host's configuration, which
// no retry can help. A nil err stays nil.
func Config(err error) error { return mark(err, config) }

// Configf makes an error that no retry can help, as fmt.Errorf does.
func Configf(format string, args ...any) error { return Config(fmt.Errorf(format, args...)) }

// Retry marks err as one that a retry can help, whatever it wraps: time mends it,
// or the operator does, without a new installation. A nil err stays nil.
func Retry(err error) error { return mark(err, retry) }

// Interrupted marks err as a wait that a signal ended. A nil err stays nil.
func Interrupted(err error) error { return mark(err, interrupted) }

// permanent is implemented by errors of other packages that no retry can help.
type permanent interface{ Permanent() bool }

// IsUsage reports whether err is, or wraps, a wrong command line.
func IsUsage(err error) bool { return is(err, usage) }

// IsConfig reports whether err is, or wraps, an error that no retry can help: one
// that Config made, or whose method Permanent() bool says so.
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

// walk calls visit with every error of the tree that errors.Is looks at: causes
// before what wraps them, joined ones in their order.
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

// Code returns the exit code that err deserves, CodeOK for nil.
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

// Report prints err with its hints, in lines that begin with the program's name
// and the VM's, where there is one, and returns the exit code that err deserves.
// A nil err prints nothing. Errors can contain text from hypervisors, guests and
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
