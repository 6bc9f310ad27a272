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

// Size returns the size of a terminal, or 80 by 24 if it is unknown.
func Size(stream any) (columns, lines int) {
	if f, ok := stream.(*os.File); ok {
		columns, lines, err := xterm.GetSize(int(f.Fd()))
		if err == nil && columns > 0 && lines > 0 {
			return columns, lines
		}
	}
	return 80, 24
}

// Raw puts a terminal into raw mode, termios(3): input and output are passed on unchanged.
// The caller must call restore, which puts it back.
func Raw(stream any) (restore func(), err error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, errors.New("stdin is not a terminal")
	}
	fd := int(f.Fd())
	before, err := xterm.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw: %w", err)
	}
	return func() { _ = xterm.Restore(fd, before) }, nil
}
