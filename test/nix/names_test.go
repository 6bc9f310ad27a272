package nix

import (
	"slices"
	"strings"
	"testing"
)

// TestOptionsOfMicrovmNixAreHere: what docs/moving-over.md says of the commit
// that microvm-nix-options.txt is of.
func TestOptionsOfMicrovmNixAreHere(t *testing.T) {
	type option struct{ Name string }
	have := golden[map[string][]option](t, "options")
	text := read(t, "microvm-nix-options.txt")
	side, n := "", 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			side = strings.Trim(line, "[]")
		default:
			n++
			if !slices.Contains(have[side], option{line}) {
				t.Errorf("%s of a %s is in no module", line, side)
			}
		}
	}
	if n < 130 {
		t.Errorf("found %d names", n)
	}
	const commit = "commit `71beea0` of 2026-08-09"
	if chapter := read(t, root+"/docs/moving-over.md"); !strings.Contains(chapter, commit) || !strings.Contains(text, strings.ReplaceAll(commit, "`", "")) {
		t.Errorf("docs/moving-over.md and microvm-nix-options.txt do not both name %s", commit)
	}
}
