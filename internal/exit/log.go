package exit

import (
	"fmt"
	"io"
	"strings"

	"microvm/internal/printable"
)

// Logf logs a line about work that goes on. It takes what fmt.Errorf takes: the
// hint of an error that is wrapped by %w comes along, on a line of its own.
type Logf func(format string, args ...any)

// Logger returns a Logf that writes to w, and begins each line with the name of
// the program. Control sequences are stripped: hypervisors, their guests and a
// package's programs have a say in what is logged.
func Logger(w io.Writer, program string) Logf {
	return func(format string, args ...any) {
		var lines strings.Builder
		for line := range strings.Lines(printable.Text(Text(fmt.Errorf(format, args...)))) {
			lines.WriteString(program + ": " + strings.TrimRight(line, "\n") + "\n")
		}
		_, _ = io.WriteString(w, lines.String())
	}
}
