package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"microvm/internal/exit"
)

// Colours, as SGR parameters of ECMA-48.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

// terminal says whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	return term.IsTerminal(int(f.Fd()))
}

// screen is the size of a terminal, 80 by 24 where it does not say.
func screen(stream any) (columns, lines int) {
	if f, ok := stream.(*os.File); ok {
		columns, lines, err := term.GetSize(int(f.Fd()))
		if err == nil && columns > 0 && lines > 0 {
			return columns, lines
		}
	}
	return 80, 24
}

// coloured says whether colour is wanted on a stream: on a terminal, and never
// with NO_COLOR, https://no-color.org.
func coloured(stream any) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(stream)
}

// palette colours text, or leaves it as it is.
type palette func(colour, text string) string

// paletteOf is the palette for a stream.
func paletteOf(stream any) palette {
	if !coloured(stream) {
		return func(_, text string) string { return text }
	}
	return func(colour, text string) string {
		if colour == "" || text == "" {
			return text
		}
		return "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
}

// cell is one of a table, with its colour.
type cell struct{ text, colour string }

// table prints rows in columns of equal width. Colour is put on after the
// widths are known, as it has none.
func table(w io.Writer, paint palette, header []string, rows [][]cell) {
	widths := make([]int, len(header))
	lines := [][]cell{make([]cell, len(header))}
	for i, h := range header {
		lines[0][i] = cell{h, bold}
	}
	lines = append(lines, rows...)
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], len([]rune(c.text)))
		}
	}
	for _, line := range lines {
		var b strings.Builder
		for i, c := range line {
			b.WriteString(paint(c.colour, c.text))
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(c.text))+2))
			}
		}
		_, _ = fmt.Fprintln(w, b.String())
	}
}

// tail returns the last n of lines.
func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }

// ago is a duration as people read it, with its two largest units.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// bytesText is a number of bytes as people read it.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit*unit {
		return fmt.Sprintf("%dK", n/unit)
	}
	value, suffix := float64(n)/(unit*unit), "M"
	if value >= unit {
		value, suffix = value/unit, "G"
	}
	if value < 10 {
		return fmt.Sprintf("%.1f%s", value, suffix)
	}
	return fmt.Sprintf("%.0f%s", value, suffix)
}

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
