package term

import (
	"fmt"
	"io"
	"strings"
)

// Say prints a line about the VM name, formatted as by fmt.Sprintf.
func Say(w io.Writer, name, format string, args ...any) {
	_, _ = fmt.Fprintf(w, "%s: %s\n", name, fmt.Sprintf(format, args...))
}

// Indent returns lines of another program, each on a line of its own and indented, to
// distinguish them from our own. The result begins with a line break.
func Indent(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("\n  " + l)
	}
	return b.String()
}
