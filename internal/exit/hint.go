package exit

import (
	"fmt"
	"slices"
	"strings"
)

// hinted is an error with a hint. The hint is not part of the error's text, so an
// error that wraps it can continue the sentence; Text prints the hint on a line of
// its own.
type hinted struct {
	error
	hint string
}

// Unwrap returns the cause.
func (h *hinted) Unwrap() error { return h.error }

// Hint returns the hint.
func (h *hinted) Hint() string { return h.hint }

// hinter is an error with a hint.
type hinter interface {
	error
	Hint() string
}

// WithHint returns err with a hint, formatted by fmt.Sprintf: what the user can do.
// An error may get several, which are printed in the order in which they were
// added. A nil err stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Hint returns the hints of err and of the errors that it wraps, one a line, or ""
// if there are none.
func Hint(err error) string {
	var lines []string
	walk(err, func(err error) {
		if h, ok := err.(hinter); ok {
			lines = append(lines, h.Hint())
		}
	})
	return strings.Join(lines, "\n")
}

// Text returns the text of err with its hints and those of the errors that it
// wraps. Each hint is a line "hint: …" below the line on which its error's text
// ends, so joined errors keep their own hints. Text of nil is "".
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
	// If a wrapper does not contain its cause's text, the hint goes to the end.
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
