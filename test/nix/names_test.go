package nix

import (
	"os"
	"path/filepath"
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

// sections are the lines of a file below each [heading].
func sections(t *testing.T, file string) map[string][]string {
	t.Helper()
	found, at := map[string][]string{}, ""
	for line := range strings.Lines(read(t, file)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			at = strings.Trim(line, "[]")
		default:
			found[at] = append(found[at], line)
		}
	}
	return found
}

// TestWhatOthersNameOfMicrovmNixIsHere: files that are imported by their path, and
// names of the flake. What is not here has a reason.
func TestWhatOthersNameOfMicrovmNixIsHere(t *testing.T) {
	have := golden[map[string]any](t, "outputs")
	n := 0
	for at, lines := range sections(t, "microvm-nix-tree.txt") {
		for _, line := range lines {
			n++
			name, reason, excused := strings.Cut(line, " - ")
			var there bool
			if at == "files" {
				_, err := os.Stat(filepath.Join(root, name))
				there = err == nil
			} else {
				names, _ := have[at].([]any)
				there = slices.Contains(names, any(name))
			}
			if there == excused {
				t.Errorf("%s of [%s]: there is %v, and the reason for its absence is %q", name, at, there, reason)
			}
		}
	}
	if n < 100 {
		t.Errorf("found %d names", n)
	}
	if have["graphics"] != "cloud-hypervisor-graphics" {
		t.Errorf("cloud-hypervisor-graphics is %v", have["graphics"])
	}
}

// TestUnitsTakeWhatTheyTookThere: for each key of each unit, a definition of somebody
// else's does what it does with microvm.nix's units, at every priority, as a text and
// as a list. Where NixOS refuses to choose there, it may do anything here.
func TestUnitsTakeWhatTheyTookThere(t *testing.T) {
	// By unit, section, priority, form and key.
	type outcomes map[string]map[string]map[string]map[string]map[string]string
	have := golden[outcomes](t, "settable")
	n := 0
	theirs := sections(t, "microvm-nix-units.txt")
	if len(have) != len(theirs) {
		t.Errorf("%d units are tried, and %d are known", len(have), len(theirs))
	}
	for unit, bySection := range have {
		set := map[string]string{}
		for _, line := range theirs[unit] {
			words := strings.Fields(line + " text")
			set[words[0]+" "+words[1]] = words[2]
		}
		for section, byPriority := range bySection {
			for priority, byForm := range byPriority {
				for form, byKey := range byForm {
					for key, got := range byKey {
						n++
						want := outcomeThere(set[section+" "+key], priority, form)
						if !slices.Contains(want, got) {
							t.Errorf("%s: %s of section %s as a %s at priority %s: %s, want %v", unit, key, section, form, priority, got, want)
						}
					}
				}
			}
		}
	}
	if n < 3500 {
		t.Errorf("tried %d definitions", n)
	}
}

// outcomeThere is what may become here of a definition that microvm.nix's unit has
// beside its own, if it has one: ours may say the key as a list where theirs has none.
func outcomeThere(own, priority, form string) []string {
	switch {
	case priority == "55" || priority == "force" || own == "":
		return []string{"theirs", "both"}
	case priority == "default":
		// Without effect there. A list of ours takes everybody's.
		return []string{"ours", "both", "theirs"}
	case own == "list" || form == "list":
		return []string{"both", "theirs"}
	default:
		return []string{"conflict", "theirs", "both"}
	}
}
