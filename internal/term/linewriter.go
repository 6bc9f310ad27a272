package term

import (
	"strings"

	"microvm/internal/printable"
)

// LineWriter is an io.WriteCloser that strips control sequences, calls Each for every
// line that is written to it, and keeps the last ones. Empty lines are dropped.
type LineWriter struct {
	// Each may be nil.
	Each func(line string)
	// Keep is the number of last lines to keep.
	Keep int
	kept []string
	rest string
}

// Write implements io.Writer.
func (w *LineWriter) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		i := strings.IndexAny(w.rest, "\n\r")
		if i < 0 {
			return len(p), nil
		}
		w.line(w.rest[:i])
		w.rest = w.rest[i+1:]
	}
}

// Kept returns the last lines, at most Keep.
func (w *LineWriter) Kept() []string { return w.kept }

// Close ends the last line, if it is incomplete. It always returns nil.
func (w *LineWriter) Close() error {
	w.line(w.rest)
	w.rest = ""
	return nil
}

func (w *LineWriter) line(text string) {
	text = strings.TrimSpace(printable.Line(text))
	if text == "" {
		return
	}
	w.kept = append(w.kept, text)
	w.kept = w.kept[max(0, len(w.kept)-w.Keep):]
	if w.Each != nil {
		w.Each(text)
	}
}
