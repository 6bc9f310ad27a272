package cli

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// messages collects the texts of errors, and of what is said about a VM, from
// the source of a package, with the file that each is in.
func messages(t *testing.T, dir string, speakers map[string]int) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s holds no source: %v", dir, err)
	}
	out := map[string]string{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			at, ok := speakers[name(call.Fun)]
			if !ok || len(call.Args) <= at {
				return true
			}
			if s := literal(call.Args[at]); s != "" {
				out[s] = filepath.Base(path)
			}
			return true
		})
	}
	return out
}

// The functions that speak, each with the number of the argument that is the
// message.
var (
	errorsOnly = map[string]int{"errors.New": 0, "fmt.Errorf": 0}
	speakers   = map[string]int{"errors.New": 0, "fmt.Errorf": 0, "fmt.Sprintf": 0, "say": 2, "p.step": 1}
)

func name(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

// literal is a text that stands in the source, in one piece or several.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}

// sentence has words; formats of columns and of units' names have none.
var sentence = regexp.MustCompile(`[a-z]+ .*[a-z]{2,}`)

func TestEveryMessageIsASentenceThatSaysWhatToDo(t *testing.T) {
	all := messages(t, ".", speakers)
	var lines []string
	for _, m := range slices.Sorted(maps.Keys(all)) {
		if !sentence.MatchString(m) {
			continue
		}
		lines = append(lines, all[m]+": "+strconv.Quote(m))
		first := strings.SplitN(m, " ", 2)[0]
		switch {
		case strings.ContainsAny(m[len(m)-1:], ".!\n "):
			t.Errorf("%s: %q ends like a paragraph", all[m], m)
		case regexp.MustCompile(`(?i)^(error|failed|unable|cannot|could not)\b`).MatchString(m):
			t.Errorf("%s: %q begins with its own failure, not with what it is about", all[m], m)
		case regexp.MustCompile(`^[A-Z][a-z]`).MatchString(first) && first != "Remove":
			t.Errorf("%s: %q begins with a capital letter, after \"microvm: \"", all[m], m)
		}
	}
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/messages.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got {
		t.Errorf("the messages are not those of %s (%v); read the new ones, and write it with: go test ./internal/cli -run EveryMessage -update", golden, err)
	}
}

var (
	// wraps pass on the words of another layer, which say what to do.
	wraps  = regexp.MustCompile(`%w`)
	remedy = regexp.MustCompile(`;|\?|, as in: `)
)

func TestEveryErrorOfItsOwnSaysWhatToDo(t *testing.T) {
	for m, file := range messages(t, ".", errorsOnly) {
		if !remedy.MatchString(m) && !wraps.MatchString(m) {
			t.Errorf("%s: %q says what is wrong, and not what to do", file, m)
		}
	}
}
