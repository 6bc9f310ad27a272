// Package printable makes the output of guests, hypervisors and builds safe to
// print to a terminal or the journal.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns text as one line, without control sequences (ECMA-48, 5.4: ESC [ …
// final byte), other non-printable characters, and bytes that are not UTF-8. Tabs
// and line breaks become spaces.
func Line(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, withoutSequences(text))
}

// Text is like Line, but keeps line breaks and tabs.
func Text(text string) string {
	var b strings.Builder
	for {
		end := strings.IndexAny(text, "\t\n")
		if end < 0 {
			b.WriteString(Line(text))
			return b.String()
		}
		b.WriteString(Line(strings.TrimSuffix(text[:end], "\r")))
		b.WriteByte(text[end])
		text = text[end+1:]
	}
}

// Lines returns the lines of a text, each cleaned by Line and trimmed. Empty lines
// are left out.
func Lines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if l := strings.TrimSpace(Line(line)); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// LastLines returns the last n of Lines.
func LastLines(text string, n int) []string {
	lines := Lines(text)
	return lines[max(0, len(lines)-n):]
}

// Short is Line, cut to at most limit bytes without splitting a character.
func Short(text string, limit int) string {
	text = Line(text)
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

func withoutSequences(text string) string {
	var b strings.Builder
	for {
		before, sequence, found := strings.Cut(text, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		end := strings.IndexFunc(sequence, func(r rune) bool { return r >= '@' && r <= '~' })
		if end < 0 {
			return b.String()
		}
		text = sequence[end+1:]
	}
}
