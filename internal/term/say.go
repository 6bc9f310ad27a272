package term

import (
	"fmt"
	"io"
	"strings"
)

// Say prints a line about a VM.
func Say(w io.Writer, name, format string, args ...any) {
	_, _ = fmt.Fprintf(w, "%s: %s\n", name, fmt.Sprintf(format, args...))
}

// Indent returns lines of somebody else, each on a line of its own and indented, so
// that they are told from ours.
func Indent(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("\n  " + l)
	}
	return b.String()
}
