// Package rules checks the source: which package imports which, the form of messages
// and comments, and tests that would pass without having looked.
package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// environment are the calls by which a test learns what its machine has. What
// such a test leaves out it has to report: by need, Skip, Error or Fatal.
var environment = []string{
	"os.Geteuid", "os.Getuid", "os.Getenv", "os.LookupEnv", "exec.LookPath", "systemd.Running", "need.Host",
}

// loud are the calls that skip a test, or fail it.
var loud = []string{"Skip", "Skipf", "SkipNow", "Error", "Errorf", "Fatal", "Fatalf", "Fail", "FailNow"}

// fault is a place in a test that may pass without having looked.
type fault struct {
	at  token.Position
	why string
}

// faults finds them in a file of tests.
func faults(set *token.FileSet, file *ast.File) []fault {
	var found []fault
	report := func(n ast.Node, format string, args ...any) {
		found = append(found, fault{set.Position(n.Pos()), fmt.Sprintf(format, args...)})
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		if f.Name.Name == "TestMain" {
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok && name(c.Fun) == "os.Exit" && len(c.Args) == 1 && text(c.Args[0]) == "0" && runsNothing(f.Body, c) {
					report(c, "TestMain exits with 0 without a test; let each test skip")
				}
				return true
			})
			continue
		}
		tests := takesT(f.Type)
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				// A subtest; what runs aside may return when it likes.
				if takesT(n.Type) {
					return true
				}
			case *ast.IfStmt:
				if tests {
					quiet(n, report)
				}
				absent(n, report)
			case *ast.BasicLit:
				if why := negated(n); why != "" {
					report(n, "%s", why)
				}
			}
			return true
		})
	}
	return found
}

// quiet reports an if that asks for something of the machine and leaves the test, or
// goes on with the next case, without a skip or an error.
func quiet(n *ast.IfStmt, report func(ast.Node, string, ...any)) {
	if !asks(n.Init) && !asks(n.Cond) || len(n.Body.List) == 0 {
		return
	}
	var leaves bool
	switch last := n.Body.List[len(n.Body.List)-1].(type) {
	case *ast.ReturnStmt:
		leaves = len(last.Results) == 0
	case *ast.BranchStmt:
		leaves = last.Tok == token.CONTINUE
	}
	if leaves && !says(n.Body) {
		report(n, "it is left in silence where the machine lacks something; use test/need, or t.Skip")
	}
}

// looking are programs that report whether something exists.
var looking = regexp.MustCompile(`^(ip( -\S+)* link|pgrep|ls|nsenter|test|stat|systemctl is-|grep|find|machinectl)\b`)

// absent reports a looking program whose failure a test treats as proof that there is
// nothing.
func absent(n *ast.IfStmt, report func(ast.Node, string, ...any)) {
	assign, ok := n.Init.(*ast.AssignStmt)
	if !ok || len(assign.Rhs) != 1 {
		return
	}
	call, ok := assign.Rhs[0].(*ast.CallExpr)
	if !ok || !says(n.Body) || !strings.Contains(text(n.Cond), "err == nil") || !looking.MatchString(strings.Trim(program(call), `"`)) {
		return
	}
	report(n, "a program that fails does not prove that there is nothing; list what there is, as no_link, no_process and is_down do")
}

// program returns the literal that names what a call of try or of exec.Command runs;
// "" for other calls.
func program(call *ast.CallExpr) string {
	switch name(call.Fun) {
	case "try":
		if len(call.Args) == 1 {
			return first(call.Args[0])
		}
	case "exec.Command.Run", "exec.Command.Output", "exec.Command.CombinedOutput":
		if command := call.Fun.(*ast.SelectorExpr).X.(*ast.CallExpr); len(command.Args) > 0 {
			return first(command.Args[0])
		}
	}
	return ""
}

var negation = regexp.MustCompile(`(^|&& |; |\|\| )! (ip|pgrep|ls|nsenter|stat|grep|find|machinectl|systemctl is-)\b|(test|\[) (-z|!) \\?"?\$\(`)

// negated returns what is wrong with a script that negates a looking program, or "".
func negated(n *ast.BasicLit) string {
	if n.Kind != token.STRING {
		return ""
	}
	if m := negation.FindString(strings.Trim(n.Value, "\"`")); m != "" {
		return fmt.Sprintf("%q is true where the program fails; list what there is, as no_link, no_process and is_down do", m)
	}
	return ""
}

// asks reports whether a node calls one of environment.
func asks(n ast.Node) bool {
	return n != nil && !isNil(n) && calls(n, func(f string) bool { return slices.Contains(environment, f) })
}

func isNil(n ast.Node) bool { s, ok := n.(ast.Stmt); return ok && s == nil }

// says reports whether a block skips a test or fails it.
func says(n ast.Node) bool {
	return calls(n, func(f string) bool {
		return slices.Contains(loud, f[strings.LastIndex(f, ".")+1:]) || strings.HasPrefix(f, "need.")
	})
}

func calls(n ast.Node, is func(string) bool) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok && is(name(c.Fun)) {
			found = true
		}
		return true
	})
	return found
}

// runsNothing reports whether no test has run before a call in TestMain.
func runsNothing(body *ast.BlockStmt, call ast.Node) bool {
	ran := false
	ast.Inspect(body, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok && c.Pos() < call.Pos() && strings.HasSuffix(name(c.Fun), ".Run") {
			ran = true
		}
		return true
	})
	return !ran
}

// takesT reports whether a function is a test, a subtest or a helper of one.
func takesT(f *ast.FuncType) bool {
	return slices.ContainsFunc(f.Params.List, func(p *ast.Field) bool { return strings.HasPrefix(text(p.Type), "testing.") })
}

func name(e ast.Expr) string { return strings.TrimPrefix(text(e), "*") }

// first is the literal that an expression begins with.
func first(e ast.Expr) string {
	for {
		b, ok := e.(*ast.BinaryExpr)
		if !ok {
			break
		}
		e = b.X
	}
	return text(e)
}

// text is an expression as far as it is compared here.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.BasicLit:
		return e.Value
	case *ast.SelectorExpr:
		return text(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return text(e.X)
	case *ast.CallExpr:
		return text(e.Fun)
	case *ast.BinaryExpr:
		return text(e.X) + " " + e.Op.String() + " " + text(e.Y)
	}
	return ""
}

const root = "../.."

func TestNoTestPassesWithoutHavingLooked(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build" || path == root+"/test/rules") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		for _, f := range faults(set, file) {
			t.Errorf("%s:%d: %s", strings.TrimPrefix(f.at.Filename, root+"/"), f.at.Line, f.why)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d files of tests were found", files)
	}
}

func TestTheRulesFindWhatTheyAreFor(t *testing.T) {
	for body, want := range map[string]int{
		`if os.Geteuid() != 0 { return }`:                                                       1,
		`if os.Geteuid() != 0 { t.Log("no"); return }`:                                          1,
		`if os.Geteuid() != 0 { t.Skip("no"); return }`:                                         0,
		`if _, err := exec.LookPath("x"); err != nil { return }`:                                1,
		`for range 3 { if _, err := exec.LookPath("x"); err != nil { continue } }`:              1,
		`if os.Getenv("X") == "" { t.Fatal("no") }`:                                             0,
		`t.Run("sub", func(t *testing.T) { if systemd.Running() { return } })`:                  1,
		`if systemd.Running() { t.Error("wrong"); return }`:                                     0,
		`if out, err := try("ip link show x"); err == nil { t.Error(out) }`:                     1,
		`if out, err := try("ip -br link show " + name + " up"); err == nil { t.Error(out) }`:   1,
		`if out, err := try("systemctl start x"); err == nil { t.Error(out) }`:                  0,
		`if out, err := try("nsenter -t 1 -m ls /"); err == nil && out != "x" { t.Error(out) }`: 1,
		`if out, err := exec.Command("pgrep", "x").Output(); err == nil { t.Error(out) }`:       1,
		`if out, err := exec.Command("pgrep", "x").Output(); err != nil { t.Error(out) }`:       0,
		`if out, err := exec.Command("pgrep", "x").Output(); err == nil { n += len(out) }`:      0,
		`if out, err := exec.Command("chown", "x").Output(); err == nil { t.Error(out) }`:       0,
		`if out, err := try("no_link x"); err != nil { t.Error(out) }`:                          0,
		`sh(t, "true && ! pgrep x")`:                                                            1,
		`sh(t, "! ip link show x")`:                                                             1,
		`sh(t, "test -z \"$(find /run)\"")`:                                                     1,
		`sh(t, "all=$(find /run); [[ $all != *x* ]]")`:                                          0,
		`sh(t, "test ! -e /x && no_process x")`:                                                 0,
	} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, "x_test.go", "package x\nfunc TestX(t *testing.T) {\n"+body+"\n}\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := faults(set, file); len(got) != want {
			t.Errorf("%s: %d faults, want %d: %v", body, len(got), want, got)
		}
	}
	for main, want := range map[string]int{
		`println("no"); os.Exit(0)`: 1,
		`os.Exit(m.Run())`:          0,
		`m.Run(); os.Exit(0)`:       0,
	} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, "x_test.go", "package x\nfunc TestMain(m *testing.M) {\n"+main+"\n}\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := faults(set, file); len(got) != want {
			t.Errorf("%s: %d faults, want %d", main, len(got), want)
		}
	}
}
