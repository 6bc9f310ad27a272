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
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// The rules of docs/style.md for texts that users read, as far as a program can
// check them. They look at the string literals of the product: at all of them for
// what no text contains, and at those of errors, logs and help for their form.

// kind is what a literal is for.
type kind int

const (
	other   kind = iota
	failure      // the text of an error
	logged       // a line of a log
	hint         // a remedy
	finding      // what microvm doctor found, or what to do about it
	short        // a command's one line of help
	help         // a command's or a flag's help
	doc          // the description of an option
)

// constructors are the functions that make a text of a kind: by their name, or by
// the last part of it, which of their arguments is one, and of which kind those
// behind it are.
var constructors = map[string]struct {
	kind  kind
	first int
	rest  kind
}{
	"fmt.Errorf": {kind: failure}, "errors.New": {kind: failure},
	"Usagef": {kind: failure}, "Configf": {kind: failure}, "configErrorf": {kind: failure}, "Addf": {kind: failure, first: 1},
	"Logf": {kind: logged}, "logf": {kind: logged},
	"WithHint": {kind: hint, first: 1}, "withHint": {kind: failure, rest: hint}, "Hintf": {kind: hint},
	"d.ok": {kind: finding, first: 1}, "d.failed": {kind: finding, first: 1, rest: finding}, "d.missing": {kind: finding, first: 1, rest: finding},
}

// keys are the fields that hold a text of a kind.
var keys = map[string]kind{"Message": failure, "Remedy": hint, "remedy": hint, "Short": short, "Long": help, "Example": help, "doc": doc}

var (
	// flags define a flag; its help is their last argument.
	flags = regexp.MustCompile(`\.Flags\.(Bool|Int|String|StringArray|StringSlice|Duration)(Var)?P?$`)
	// remedies are the names of what holds or returns remedies.
	remedies = regexp.MustCompile(`^([a-zA-Z]*R|r)emedy$|^([a-zA-Z]*H|h)int$`)
)

// literal is a text in the source. What is not literal in it is "…".
type literal struct {
	at   token.Pos
	kind kind
	text string
	raw  bool
}

// literals returns the texts of a file.
func literals(file *ast.File) []literal {
	var found []literal
	kinds := map[ast.Node]kind{}
	var visit func(ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field: // its tag is no text
			ast.Inspect(n.Type, visit)
			return false
		case *ast.CallExpr:
			classify(n, kinds)
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && keys[key.Name] != other {
				kinds[n.Value] = keys[key.Name]
			}
		case *ast.FuncDecl:
			if remedies.MatchString(n.Name.Name) && n.Body != nil {
				returned(n.Body, kinds)
			}
		case *ast.AssignStmt:
			named(n.Lhs, n.Rhs, kinds)
		case *ast.ValueSpec:
			for i, value := range n.Values {
				named([]ast.Expr{n.Names[i]}, []ast.Expr{value}, kinds)
			}
		case *ast.BasicLit, *ast.BinaryExpr:
			l := literal{at: n.Pos(), kind: kinds[n]}
			if !l.join(n.(ast.Expr), visit) {
				return true
			}
			found = append(found, l)
			return false
		}
		return true
	}
	ast.Inspect(file, visit)
	return found
}

// classify records what the arguments of a call are.
func classify(c *ast.CallExpr, kinds map[ast.Node]kind) {
	called := text(c.Fun)
	switch how, ok := constructors[called]; {
	case called == "fmt.Sprintf" && len(c.Args) > 0:
		kinds[c.Args[0]] = kinds[c]
	case flags.MatchString(called):
		kinds[c.Args[len(c.Args)-1]] = help
	default:
		if !ok {
			how, ok = constructors[called[strings.LastIndex(called, ".")+1:]]
		}
		for i := how.first; ok && i < len(c.Args); i++ {
			kinds[c.Args[i]] = how.kind
			how.kind = how.rest
		}
	}
}

// named marks what is given to a variable of a remedy.
func named(to, what []ast.Expr, kinds map[ast.Node]kind) {
	for i := range to {
		if len(to) == len(what) && remedies.MatchString(text(to[i])) {
			kinds[what[i]] = hint
		}
	}
}

// returned marks what the function of a remedy returns.
func returned(body ast.Node, kinds map[ast.Node]kind) {
	ast.Inspect(body, func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok {
			for _, e := range r.Results {
				kinds[e] = hint
			}
		}
		return true
	})
}

// join appends an expression of literals to l, and visits what is not literal in
// it. It reports whether there is a literal in it.
func (l *literal) join(e ast.Expr, visit func(ast.Node) bool) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		if e.Kind != token.STRING || err != nil {
			return false
		}
		l.raw = l.raw || e.Value[0] == '`'
		l.text += s
		return true
	case *ast.BinaryExpr:
		if e.Op != token.ADD || !concatenates(e) {
			return false
		}
		for _, operand := range []ast.Expr{e.X, e.Y} {
			if !concatenates(operand) {
				l.text += "…"
				ast.Inspect(operand, visit)
				continue
			}
			l.join(operand, visit)
		}
		return true
	}
	return false
}

// concatenates reports whether an expression is a string literal, or a sum with one.
func concatenates(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Kind == token.STRING
	case *ast.BinaryExpr:
		return e.Op == token.ADD && (concatenates(e.X) || concatenates(e.Y))
	}
	return false
}

// phrase is one that no text contains, with what to write instead.
type phrase struct {
	not  *regexp.Regexp
	but  string
	only bool // in messages: elsewhere it can be good English
}

func avoid(not, but string) phrase { return phrase{not: regexp.MustCompile(not), but: but} }

// phrases are those of docs/style.md, and more of their kind, that are never meant
// otherwise.
var phrases = []phrase{
	{regexp.MustCompile(`\b[Tt]here (is|are|was|were) no( such)?\b`), `"X not found", "X does not exist"`, true},
	avoid(`\b(is|are|was|were) no (such )?(absolute |block |character |credential |IP |IPv4 |IPv6 |MAC |PCI |plain |regular |relative |runner |single |symbolic |user |valid |vsock )*`+
		`(address|argument|boolean|bridge|command|device|directory|disk|file|flag|flake|image|integer|interface|kernel|key|link|name|node|number|option|package|path|place|port|selector|size|socket|spec|template|terminal|unit|UUID|VM|volume|way)\b`,
		`"is not a path", "is not a PCI address"`),
	avoid(`\bexists? already\b|\bis already there\b|\bis there already\b`, `"already exists"`),
	avoid(`\bwords? too many\b`, `"unexpected argument"`),
	avoid(`\bwords? (is|are) missing\b`, `"missing argument"`),
	avoid(`\bexcludes? each other\b`, `"X and Y are mutually exclusive"`),
	avoid(`\bgoes with -|\bgo with -`, `"-f requires -c"`),
	avoid(`\bsay (--?[a-z]|one\b|it again\b|so:)`, `"use --yes", "specify X"`),
	avoid(`\bof root's\b|\broot's (alone|word)\b|\b(is|are) root's\b|\b(it|them) root's\b`, `"owned by root", "trusted"`),
	avoid(`\banother foreground\b`, `"in the foreground in another terminal"`),
	avoid(`\binstalled whole\b`, `"is the microvm installation complete?"`),
	avoid(`\b(was|is|were|are) content\b`, `"succeeded"`),
	avoid(`\bwhat it was started with\b`, `"the package that it was started with"`),
	avoid(`^look(ing)? at\b|: look at\b`, `"stat X: …", "read X: …"`),
	avoid(`^make (the )?([a-z]+ )?%[a-z]( %[a-z])*( MiB large)?: `, `"create X: …"`),
	avoid(`^own (%|the\b)`, `"chown X: …"`),
	avoid(`^tell (%|the\b)|: tell (%|the\b)`, `"notify X: …", "determine X: …"`),
	avoid(`\bby hand\b`, `"manually"`),
	avoid(`\banew\b`, `"again"`),
	avoid(`\bfor ever\b`, `"forever", "indefinitely"`),
	avoid(`\blest\b`, `"so that … not"`),
	avoid(`\b[Ww]hoever\b`, `"any user who", "the process that"`),
	avoid(`(^|, |\b(and|as|because|but|if|so|that|where|which) )[Nn]obody\b`, `"no user", "no process"`),
	avoid(`\b(have|has) a say\b`, `what it does`),
	avoid(`\bhe (is|has|can|may|does)\b|\bhimself\b`, `"they", "the user"`),
	avoid(`\b(is|are|was|were) gone\b`, `"has exited", "no longer exists"`),
	avoid(`\bis tried again\b`, `"is retried", "retrying"`),
}

var (
	glued = regexp.MustCompile(`\n\s*hint:`)
	// An order behind a semicolon is a remedy.
	order = regexp.MustCompile(`; (or )?(add|ask|boot|build|choose|convert|copy|correct|create|delete|do|find out|fix|give|grant|inspect|install|leave|let|list|load|look|make|mount|move|name|pass|put|raise|read it|rebuild|` +
		`remove|rename|restart|retry|run|say|see|set|share|shorten|specify|start it|start the|stop|take|try|turn|unset|update|use|wait until|write)\b`)
	// What follows a cause is in the middle of the line once that is wrapped.
	follows = regexp.MustCompile(`%w\)?; `)
	// proper are the names that an error may begin with, of those that look like a
	// word at the beginning of a sentence.
	proper = []string{"Alioth", "Cloud", "Debian", "Firecracker", "Landlock", "Linux", "Nix"}
)

const (
	widest  = 160 // of a message, in characters
	columns = 100 // of a line of help
)

// wrong returns what is wrong with a text, and what to write instead.
func (l literal) wrong() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	message := l.kind == failure || l.kind == logged || l.kind == hint || l.kind == finding
	for _, found := range l.phrases(message) {
		say("%s", found)
	}
	if glued.MatchString(l.text) || (l.kind == failure || l.kind == hint) && strings.HasPrefix(l.text, "hint:") {
		say("the hint is part of the text; give it to the error, by exit.WithHint")
	} else if found := order.FindString(l.text); found != "" && (l.kind == failure || l.kind == logged || l.kind == other) && !l.raw {
		say("a remedy behind a semicolon, %q; give the error a hint, by exit.WithHint, or print it on a line of its own", found)
	} else if l.kind == hint && strings.HasPrefix(l.text, "; ") {
		say("a hint that begins with a semicolon; give it to the error, by exit.WithHint")
	} else if l.kind == failure && follows.MatchString(l.text) {
		say("text behind the cause; put it before the cause, or give the error a hint, by exit.WithHint")
	}
	if l.kind == failure && capital(l.text) {
		say("an error begins with a capital; write it in lower case, or add the name to proper in test/rules/messages_test.go")
	}
	if (message || l.kind == short) && strings.HasSuffix(l.text, ".") && !strings.HasSuffix(l.text, "..") {
		say("a full stop at the end; leave it out")
	}
	if n := utf8.RuneCountInString(l.text); message && n > widest {
		say("%d characters; shorten it to %d at most", n, widest)
	}
	if l.kind == help || l.kind == short {
		for line := range strings.Lines(l.text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
				say("a line of %d columns; break it at %d", n, columns)
			}
		}
	}
	return out
}

// phrases returns those in a text that are to be avoided, each with what to write
// instead.
func (l literal) phrases(message bool) []string {
	var out []string
	rest := l.text
	for _, p := range phrases {
		if found := p.not.FindString(rest); found != "" && (message || !p.only) {
			out = append(out, fmt.Sprintf("%q; write %s (docs/style.md)", found, p.but))
			rest = strings.ReplaceAll(rest, found, "…") // each is reported once
		}
	}
	return out
}

// capital reports whether a text begins like a sentence: with a capital, and not
// with a name.
func capital(text string) bool {
	word, _, _ := strings.Cut(text, " ")
	word = strings.TrimRight(word, ":,;")
	first, size := utf8.DecodeRuneInString(word)
	rest := word[size:]
	return unicode.IsUpper(first) && rest != "" && rest == strings.ToLower(rest) && !slices.Contains(proper, word)
}

// exempt are the files that hold a text for what it is: the line of a hint itself.
var exempt = []string{"internal/exit/hint.go"}

// TestMessagesHaveTheFormOfTheStyle: docs/style.md.
func TestMessagesHaveTheFormOfTheStyle(t *testing.T) {
	counts := map[kind]int{}
	for _, dir := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, filepath.FromSlash(root+"/")))
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || slices.Contains(exempt, name) {
				return nil
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, l := range literals(file) {
				counts[l.kind]++
				for _, why := range l.wrong() {
					t.Errorf("%s:%d: %q: %s", name, set.Position(l.at).Line, l.text, why)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for k, least := range map[kind]int{failure: 500, logged: 20, hint: 30, finding: 50, short: 20, help: 40, doc: 80} {
		if counts[k] < least {
			t.Errorf("only %d texts of kind %d were found, fewer than %d: do the constructors have other names now?", counts[k], k, least)
		}
	}
}

// TestTheRulesOfMessagesFindWhatTheyAreFor: bad texts, with a part of each report,
// and good ones, with none.
func TestTheRulesOfMessagesFindWhatTheyAreFor(t *testing.T) {
	for body, want := range map[string][]string{
		// Form.
		`return fmt.Errorf("create %s: %w", name, err)`:         nil,
		`return fmt.Errorf("Create %s: %w", name, err)`:         {"begins with a capital"},
		`return errors.New("Not found")`:                        {"begins with a capital"},
		`return errors.New("QEMU not found")`:                   nil,
		`return errors.New("VM not found")`:                     nil,
		`return errors.New("StratoVirt needs an initrd")`:       nil,
		`return errors.New("Firecracker needs an initrd")`:      nil,
		`return errors.New("X: it")`:                            nil,
		`return exit.Usagef("it failed.")`:                      {"full stop"},
		`s.Logf("it failed.")`:                                  {"full stop"},
		`s.Logf("It failed")`:                                   nil,
		`s.Logf("waiting...")`:                                  nil,
		`fmt.Println("It failed.")`:                             nil,
		`return errors.New("` + strings.Repeat("ä", 160) + `")`: nil,
		`return errors.New("` + strings.Repeat("ä", 161) + `")`: {"161 characters"},
		`return errors.New("` + strings.Repeat("a", 100) + `" + "` + strings.Repeat("b", 100) + `")`: {"200 characters"},
		`println("` + strings.Repeat("a", 200) + `")`:                                                nil,
		`_ = cobra.Command{Short: "Do it.", Long: "Do it.\nWell."}`:                                  {"full stop"},
		`_ = cobra.Command{Long: "` + strings.Repeat("a", 101) + `"}`:                                {"101 columns"},
		`cmd.Flags().BoolVar(&b, "b", false, "` + strings.Repeat("a", 101) + `")`:                    {"101 columns"},
		`cmd.Flags().Bool("b", false, "` + strings.Repeat("a", 100) + `")`:                           nil,
		// Remedies.
		`return exit.WithHint(errors.New("VM not found"), "list VMs with: microvm list")`: nil,
		`return errors.New("VM not found; run: microvm list")`:                            {`behind a semicolon, "; run"`},
		`return errors.New("VM not found\nhint: list VMs with: microvm list")`:            {"the hint is part"},
		`return errors.New("hint: list VMs")`:                                             {"the hint is part"},
		`return exit.WithHint(err, "hint: list VMs")`:                                     {"the hint is part"},
		`term.Say(out, "hint: list VMs")`:                                                 nil,
		`faults.Addf("mem", "%d is odd; use %d", n, n+1)`:                                 {`"; use"`},
		`faults.Addf("mem", "%d is odd: mem must be even", n)`:                            nil,
		`faults = append(faults, Fault{Path: p, Message: "Bad; set x"})`:                  {`"; set"`, "capital"},
		`return fmt.Sprintf("%q is not known; write one of %s", a, b)`:                    {`"; write"`},
		`return err.Error() + "; load the module"`:                                        {`"; load"`},
		`return exit.WithHint(err, "run: ip link add %s; use another")`:                   nil,
		`remedy := "do this; set that"`:                                                   nil,
		`remedy := "; set that"`:                                                          {"begins with a semicolon"},
		`return name + "; last log lines:"`:                                               nil,
		`return errors.New("it was not removed; nothing has changed")`:                    nil,
		`return fmt.Errorf("read x: %w; its owner is y", err)`:                            {"behind the cause"},
		`s.Logf("asking: %w; trying again", err)`:                                         nil,
		"return `set -e; use x`":                                                          nil,
		`d.failed("x", "not there; set y", "set z; run a")`:                               nil,
		`faults.Addf("mem", "%d is odd", n).Hintf("use %d.", n+1)`:                        {"full stop"},
		`return withHint("it is odd; use 2", "use 2; or 4")`:                              {`"; use"`},
		`return fmt.Errorf("%s not found", "File")`:                                       nil,
		// Words.
		`return fmt.Errorf("there is no VM %q", name)`:                       {`"there is no"`},
		`d.failed("x", fmt.Sprintf("there is no VM %q", name), "create it")`: {`"there is no"`},
		`_ = cobra.Command{Long: "Where there is no guest, it ends."}`:       nil,
		`return fmt.Errorf("%q is no path", p)`:                              {`"is no path"`},
		`return fmt.Errorf("%q is no PCI address", p)`:                       {`"is no PCI address"`},
		`return errors.New("it is no longer there, and has no path")`:        nil,
		`return "is no directory"`:                                           {`"is no directory"`},
		`return errors.New("VM exists already")`:                             {`"exists already"`},
		`return errors.New("VM already exists")`:                             nil,
		`return fmt.Errorf("%q is one word too many", a)`:                    {"unexpected argument"},
		`return errors.New("-c and -u exclude each other")`:                  {"mutually exclusive"},
		`return errors.New("-f goes with -c")`:                               {"-f requires -c"},
		`println("to go on, say --yes")`:                                     {`"say --y"`},
		`println("what the guests say of it")`:                               nil,
		`println(dir + " is root's, and a link of root's")`:                  {"owned by root"},
		`println("it is being run in another foreground")`:                   {"terminal"},
		`return fmt.Errorf("look at %s: %w", p, err)`:                        {"stat X"},
		`return fmt.Errorf("make %s: %w", p, err)`:                           {"create X"},
		`return exit.WithHint(err, "make %s writable for the user", p)`:      nil,
		`return fmt.Errorf("make the image %d MiB large: %w", n, err)`:       {"create X"},
		`return fmt.Errorf("make systemd read its units again: %w", err)`:    nil,
		`return fmt.Errorf("own %s: %w", p, err)`:                            {"chown X"},
		`return "; it is made " + "anew"`:                                    {"again"},
		`return errors.New("see that nobody did")`:                           {"no user"},
		`return errors.New("user nobody cannot read it")`:                    nil,
		`return errors.New("the VM is gone")`:                                {"has exited"},
		// What is no text.
		"type x struct { A int `json:\"is no path\"` }": nil,
	} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, "x.go", "package x\nimport _ \"of root's\"\nfunc x() {\n"+body+"\n}\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range literals(file) {
			got = append(got, l.wrong()...)
		}
		if len(got) != len(want) {
			t.Errorf("%s: %q, want %d reports: %q", body, got, len(want), want)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%s: %q, want %q", body, got[i], want[i])
			}
		}
	}
}
