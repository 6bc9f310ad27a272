package exit

import (
	"fmt"
	"slices"
	"strings"
)

// hinted is an error with its remedy, which is not part of its text: whoever wraps
// it goes on with the sentence, and Text puts the remedy on a line of its own.
type hinted struct {
	error
	hint string
}

// Unwrap returns the cause.
func (h *hinted) Unwrap() error { return h.error }

// Hint returns the remedy.
func (h *hinted) Hint() string { return h.hint }

// hinter is an error that carries its remedy.
type hinter interface {
	error
	Hint() string
}

// WithHint returns err with a remedy, formatted as by fmt.Sprintf. An error may be
// given several, which are printed in the order in which they were given. A nil err
// stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Hint returns the remedies that err and the errors that it wraps carry, a line
// each; "" where there is none.
func Hint(err error) string {
	var lines []string
	walk(err, func(err error) {
		if h, ok := err.(hinter); ok {
			lines = append(lines, h.Hint())
		}
	})
	return strings.Join(lines, "\n")
}

// Text returns the text of err with the remedies that it and the errors that it
// wraps carry: each is a line "hint: …" below the line on which its cause ends, so
// that of several joined errors each keeps its own. A nil err has the text "".
func Text(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	type line struct {
		at   int
		hint string
	}
	var lines []line
	begin := 0
	walk(err, func(err error) {
		h, ok := err.(hinter)
		if !ok {
			return
		}
		cause := h.Error()
		end := len(text)
		if i := strings.Index(text[begin:], cause); i >= 0 {
			begin += i
			if n := strings.IndexByte(text[begin+len(cause):], '\n'); n >= 0 {
				end = begin + len(cause) + n
			}
		}
		lines = append(lines, line{end, h.Hint()})
	})
	// A cause whose text was reworded on the way has its remedy at the end.
	slices.SortStableFunc(lines, func(a, b line) int { return a.at - b.at })
	var b strings.Builder
	done := 0
	for _, l := range lines {
		b.WriteString(text[done:l.at])
		b.WriteString("\nhint: " + l.hint)
		done = l.at
	}
	b.WriteString(text[done:])
	return b.String()
}
