// Package messages lists what the programs can say to people, in one file that
// a reader can go through: messages.txt.
package messages

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

var update = flag.Bool("update", false, "write the golden file anew")

const golden = "messages.txt"

// The functions that speak, by the last part of their names, each with the
// number of the argument that is the message.
var (
	complainers = map[string]int{
		"New": 0, "Errorf": 0, "configErrorf": 0, "configf": 0, "Addf": 1, "noWayDown": 0, "errNoWay": 1, "fixedSocket": 1,
	}
	reporters = map[string]int{
		"logf": 0, "printf": 0, "Printf": 0, "Fprintf": 1, "Fprintln": 1, "line": 1, "say": 2, "Say": 0, "step": 1, "Sprintf": 0, "ok": 1, "failed": 2, "missing": 2,
	}
	// details are the second text of those that say two things at once.
	details = map[string]int{"failed": 1, "missing": 1}
	// silent are packages whose texts are no messages of the programs.
	silent = []string{"internal/handbook", "internal/timeline"}
)

type message struct{ file, text string }

// said collects the messages of all packages that the speakers are given. The
// text of a message that stands in pieces is what is constant of it.
func said(t *testing.T, speakers map[string]int) []message {
	t.Helper()
	found := map[message]bool{}
	for _, pattern := range []string{"../../internal/*/*.go", "../../cmd/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no source in %s: %v", pattern, err)
		}
		for _, path := range files {
			dir := strings.TrimPrefix(filepath.Dir(path), "../../")
			if strings.HasSuffix(path, "_test.go") || slices.Contains(silent, dir) {
				continue
			}
			for _, text := range inFile(t, path, speakers) {
				found[message{strings.TrimPrefix(path, "../../"), text}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b message) int {
		return strings.Compare(a.file+"\x00"+a.text, b.file+"\x00"+b.text)
	})
}

func inFile(t *testing.T, path string, speakers map[string]int) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		// What a map of the package says of one thing or another.
		if table, ok := n.(*ast.ValueSpec); ok && speakers["say"] != 0 {
			out = append(out, values(table)...)
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		at, ok := speakers[name(call.Fun)]
		if !ok || len(call.Args) <= at {
			return true
		}
		if text := literal(call.Args[at]); text != "" {
			out = append(out, text)
		}
		return true
	})
	return out
}

// values are the texts of a map from something else to texts.
func values(v *ast.ValueSpec) []string {
	var out []string
	for _, e := range v.Values {
		table, ok := e.(*ast.CompositeLit)
		if !ok {
			continue
		}
		if m, ok := table.Type.(*ast.MapType); !ok || name(m.Key) == "string" || name(m.Value) != "string" {
			continue
		}
		for _, pair := range table.Elts {
			if kv, ok := pair.(*ast.KeyValueExpr); ok {
				out = append(out, literal(kv.Value))
			}
		}
	}
	return out
}

func name(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
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
		left, right := literal(e.X), literal(e.Y)
		if left == "" || right == "" {
			return left + "…" + right
		}
		return left + right
	}
	return ""
}

var (
	// sentence has words; formats of columns, of files and of units' names have none.
	sentence = regexp.MustCompile(`[a-z]+ .*[a-z]{2,}`)
	// wraps pass on the words of another layer, which say what to do.
	wraps  = regexp.MustCompile(`%w|: %v$`)
	remedy = regexp.MustCompile(`;|\?|, as in: |^want |: (give|use|name|set|install|run|make) `)
	// own begins with the failure, and not with what it is about.
	own = regexp.MustCompile(`(?i)^(error|failed|unable|cannot|could not)\b`)
	// capital begins like a paragraph, after "microvm: "; names may.
	capital = regexp.MustCompile(`^[A-Z][a-z]+ `)
	names   = regexp.MustCompile(`^(StratoVirt|Firecracker|Cloud|Remove|Unix) `)
)

func TestEveryMessageIsListedAndReadsAsASentence(t *testing.T) {
	var advice, passed, causes, reports []string
	for _, m := range said(t, complainers) {
		if !sentence.MatchString(m.text) {
			continue
		}
		checkForm(t, m)
		line := m.file + ": " + strconv.Quote(m.text)
		switch {
		case remedy.MatchString(m.text):
			advice = append(advice, line)
		case wraps.MatchString(m.text):
			passed = append(passed, line)
		default:
			causes = append(causes, line)
		}
	}
	for _, speakers := range []map[string]int{reporters, details} {
		for _, m := range said(t, speakers) {
			if sentence.MatchString(m.text) {
				checkForm(t, m)
				reports = append(reports, m.file+": "+strconv.Quote(m.text))
			}
		}
	}
	slices.Sort(reports)
	reports = slices.Compact(reports)
	var out strings.Builder
	section := func(title string, lines []string) {
		_, _ = out.WriteString("# " + title + "\n\n" + strings.Join(lines, "\n") + "\n\n")
	}
	section("What is wrong, and what to do", advice)
	section("What was being done, in front of the reason from below", passed)
	section("Causes, which the message around them completes", causes)
	section("What happens, and what doctor finds", reports)
	got := strings.TrimSuffix(out.String(), "\n")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got {
		t.Errorf("the messages are not those of %s (%v); read the new ones, and write it with: go test ./test/messages -update", golden, err)
	}
}

func checkForm(t *testing.T, m message) {
	t.Helper()
	switch {
	case strings.HasSuffix(m.text, ".") || strings.HasSuffix(m.text, "!"):
		t.Errorf("%s: %q ends like a paragraph", m.file, m.text)
	case own.MatchString(m.text):
		t.Errorf("%s: %q begins with its own failure, not with what it is about", m.file, m.text)
	case capital.MatchString(m.text) && !names.MatchString(m.text):
		t.Errorf("%s: %q begins with a capital letter, after \"microvm: \"", m.file, m.text)
	}
}

// What the command itself says is never a mere cause: nobody is around it.
func TestEveryErrorOfTheCommandSaysWhatToDo(t *testing.T) {
	for _, m := range said(t, complainers) {
		outermost := strings.HasPrefix(m.file, "internal/cli/") || strings.HasPrefix(m.file, "internal/installer/") || strings.HasPrefix(m.file, "cmd/")
		if outermost && sentence.MatchString(m.text) && !remedy.MatchString(m.text) && !wraps.MatchString(m.text) {
			t.Errorf("%s: %q says what is wrong, and not what to do", m.file, m.text)
		}
	}
}
