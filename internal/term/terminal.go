// Package term writes to terminals and reads from them: colour, tables, progress,
// questions, and text that fits a line.
package term

import (
	"errors"
	"fmt"
	"os"

	xterm "golang.org/x/term"
)

// IsTerminal reports whether stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	return xterm.IsTerminal(int(f.Fd()))
}

// Size returns the size of a terminal, 80 by 24 where it does not say.
func Size(stream any) (columns, lines int) {
	if f, ok := stream.(*os.File); ok {
		columns, lines, err := xterm.GetSize(int(f.Fd()))
		if err == nil && columns > 0 && lines > 0 {
			return columns, lines
		}
	}
	return 80, 24
}

// Raw gives every key to the guest, and what it prints to the terminal, as
// they are, termios(3). restore undoes it.
func Raw(stream any) (restore func(), err error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, errors.New("standard input is no terminal; run it in one")
	}
	fd := int(f.Fd())
	before, err := xterm.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw: %w", err)
	}
	return func() { _ = xterm.Restore(fd, before) }, nil
}
