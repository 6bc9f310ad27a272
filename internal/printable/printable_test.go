package printable

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestNothingReachesATerminalAsACommand(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                      "plain",
		"\x1b[31mred\x1b[0m":         "red",
		"\x1b]0;title\x07x":          "]0;titlex",
		"a\tb\r\nc":                  "a b  c",
		"half \x1b[":                 "half ",
		"\u202edrawkcab":             "drawkcab",
		"caf\u00e9 \u2192 \x9b31mno": "caf\u00e9 \u2192 31mno",
		"\u009b2J":                   "2J",
	} {
		if got := Line(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestATextKeepsItsLines(t *testing.T) {
	if got, want := Text("a\x1b[2J:\r\n\tb\tc\rd \x1b[\ne\n"), "a:\n\tb\tc d \ne\n"; got != want {
		t.Errorf("it became %q, want %q", got, want)
	}
}

func TestALongTextIsCutBetweenCharacters(t *testing.T) {
	for limit, want := range []string{"", "", "\u00e9", "\u00e9", "\u00e9\u00e9", "\u00e9\u00e9x", "\u00e9\u00e9x"} {
		if got := Short("\u00e9\u00e9x", limit); got != want {
			t.Errorf("at most %d bytes: %q, want %q", limit, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("\x1b[31mred\x07\x9b2J")
	f.Add("\x1b\x1b[0m[2J")
	f.Fuzz(func(t *testing.T, in string) {
		out := Line(in)
		if !utf8.ValidString(out) || len(out) > len(in) || strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func TestLinesAreTheTextsWithoutEmptyOnes(t *testing.T) {
	const text = " one\r\n\n\x1b[1m\ntwo\tx\n\x1b[31mthree"
	if got, want := Lines(text), []string{"one", "two x", "three"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for n, want := range map[int][]string{0: {}, 2: {"two x", "three"}, 9: {"one", "two x", "three"}} {
		if got := LastLines(text, n); !slices.Equal(got, want) {
			t.Errorf("last %d: %q, want %q", n, got, want)
		}
	}
}
