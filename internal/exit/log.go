package exit

import (
	"fmt"
	"io"
	"strings"

	"microvm/internal/printable"
)

// Logf logs one message, formatted as by fmt.Errorf. The hint of an error that is
// wrapped by %w follows on a line of its own.
type Logf func(format string, args ...any)

// Logger returns a Logf that writes to w and begins each line with the program's
// name. Messages can contain text from hypervisors, guests and a package's
// programs, so control sequences are stripped.
func Logger(w io.Writer, program string) Logf {
	return func(format string, args ...any) {
		var lines strings.Builder
		for line := range strings.Lines(printable.Text(Text(fmt.Errorf(format, args...)))) {
			lines.WriteString(program + ": " + strings.TrimRight(line, "\n") + "\n")
		}
		_, _ = io.WriteString(w, lines.String())
	}
}
