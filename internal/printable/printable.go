// Package printable makes what guests, hypervisors and builds wrote fit for a
// line of a terminal or of the journal.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is text without what a terminal would obey: control sequences (ECMA-48,
// 5.4: ESC [ … final byte), other characters that do not print, and bytes that
// are no UTF-8. Tabs and line breaks become spaces.
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

// Text is Line for a text of several lines: its line breaks stay, and its tabs,
// which indent and align.
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

// Lines are the lines of a text, each as Line has it and without blanks around it;
// empty ones are left out.
func Lines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if l := strings.TrimSpace(Line(line)); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// LastLines are the last n of Lines.
func LastLines(text string, n int) []string {
	lines := Lines(text)
	return lines[max(0, len(lines)-n):]
}

// Short is Line, cut to at most limit bytes, at the end of a character.
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
