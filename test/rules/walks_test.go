package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// architecture has the walks: lists of `file`: `function`, …
const architecture = "docs/architecture.md"

var (
	stay = regexp.MustCompile("`((?:cmd|internal)/[a-z0-9/_-]+\\.go)`: ((?:`\\w+`(?:, | or )?)+)")
	call = regexp.MustCompile("`(\\w+)`")
	item = regexp.MustCompile("(?m)^- `([^`]+)`: .*$")
	// heading begins a list: of another run of a program.
	heading = regexp.MustCompile(`\n###? `)
)

// functions are those that a file declares.
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

// TestTheWalksAreThoseOfTheCode checks that each function is in the file that the page
// names, and that a list returns to a file only where that is marked.
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
				t.Errorf("%s: %s has no function %s", architecture, file, f[1])
			}
		}
	}
	if len(known) < 40 {
		t.Errorf("%s: only %d files are named", architecture, len(known))
	}
	for _, section := range heading.Split(string(page), -1) {
		seen := map[string]bool{}
		for _, m := range item.FindAllStringSubmatch(section, -1) {
			if again := strings.Contains(m[0], "(*again*: "); again != seen[m[1]] {
				t.Errorf("%s: marked as visited again: %v, and it is: %v:\n%s", architecture, again, seen[m[1]], m[0])
			}
			seen[m[1]] = true
		}
	}
}
