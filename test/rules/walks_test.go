package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// architecture has the walks: lists of `file`: `function`, …
const architecture = "docs/architecture.md"

var (
	stay = regexp.MustCompile("`((?:cmd|internal)/[a-z0-9/_-]+\\.go)`:\\s((?:`\\w+`(?:, | or )?)+)")
	call = regexp.MustCompile("`(\\w+)`")
	item = regexp.MustCompile("(?m)^- `([^`]+)`: .*$")
	// A list belongs to a section or a subsection; each is one process.
	section = regexp.MustCompile("\n###? ")
)

// walks are the sections with a walk each, and how many lines it has at least.
var walks = map[string]int{
	"The walk of an interface id":  40,
	"The walk of a share's source": 40,
	"The life of a start":          40,
	"The life of a stop":           20,
}

// functions returns the names of the functions that a file declares.
func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			out[f.Name.Name] = true
		}
	}
	return out
}

// TestTheWalksAreThoseOfTheCode checks that each function is in the file that the
// page names, and that a list returns to a file only in a line that is marked so.
func TestTheWalksAreThoseOfTheCode(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, architecture))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]bool{}
	for _, m := range stay.FindAllStringSubmatch(string(page), -1) {
		file := m[1]
		if known[file] == nil {
			known[file] = functions(t, file)
		}
		for _, f := range call.FindAllStringSubmatch(m[2], -1) {
			if !known[file][f[1]] {
				t.Errorf("%s: function %s not found in %s", architecture, f[1], file)
			}
		}
	}
	missing := maps.Clone(walks)
	for _, text := range strings.Split(string(page), "\n## ") {
		title, _, _ := strings.Cut(text, "\n")
		if least := walks[title]; len(item.FindAllString(text, -1)) < least {
			t.Errorf("%s: %q has fewer than %d lines", architecture, title, least)
		}
		delete(missing, title)
	}
	for title := range missing {
		t.Errorf("%s: section %q not found", architecture, title)
	}
	for _, text := range section.Split(string(page), -1) {
		seen := map[string]bool{}
		for _, m := range item.FindAllStringSubmatch(text, -1) {
			if again := strings.Contains(m[0], "(*again*: "); again != seen[m[1]] {
				t.Errorf("%s: marked as visited again: %v, want %v:\n%s", architecture, again, seen[m[1]], m[0])
			}
			seen[m[1]] = true
		}
	}
}
