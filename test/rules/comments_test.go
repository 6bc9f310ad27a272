package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var firstWord = regexp.MustCompile(`^\w+`)

// misplaced returns the declarations of a package whose doc comment begins with the
// name of another one of it: the comment stayed where that was before, or was not
// changed when the name was. It returns the position and the two names of each.
func misplaced(set *token.FileSet, files []*ast.File) map[token.Position][2]string {
	docs := map[*ast.Ident]*ast.CommentGroup{}
	names := map[string]bool{}
	for _, file := range files {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				docs[d.Name] = d.Doc
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						docs[s.Name] = only(d, s.Doc)
					case *ast.ValueSpec:
						docs[s.Names[0]] = only(d, s.Doc)
					}
				}
			}
		}
	}
	for name := range docs {
		names[name.Name] = true
	}
	found := map[token.Position][2]string{}
	for name, doc := range docs {
		if first := firstWord.FindString(doc.Text()); first != name.Name && names[first] {
			found[set.Position(name.Pos())] = [2]string{name.Name, first}
		}
	}
	return found
}

// only returns the comment of a specification: its own, or that of the declaration
// if it is the only one there.
func only(d *ast.GenDecl, own *ast.CommentGroup) *ast.CommentGroup {
	if own == nil && !d.Lparen.IsValid() {
		return d.Doc
	}
	return own
}

func TestDocCommentsAreThoseOfTheirDeclaration(t *testing.T) {
	packages := map[string][]*ast.File{}
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 40 {
		t.Errorf("only %d packages were found", len(packages))
	}
	for _, files := range packages {
		for at, names := range misplaced(set, files) {
			t.Errorf("%s:%d: the comment of %s begins with %s; begin it with the name that it describes", strings.TrimPrefix(at.Filename, root+"/"), at.Line, names[0], names[1])
		}
	}
}

func TestMisplacedCommentsAreFound(t *testing.T) {
	for source, want := range map[string]int{
		"// a returns 1.\nfunc a() int { return 1 }\n\nfunc b() {}":                 0,
		"// b returns 1.\nfunc a() int { return 1 }\n\nfunc b() {}":                 1,
		"// It returns 1.\nfunc a() int { return 1 }":                               0,
		"// b is a number.\ntype a int\n\ntype b int":                               1,
		"// b is a number.\nconst a = 1\n\nconst b = 2":                             1,
		"// b and a are numbers.\nconst (\n\ta = 1\n\tb = 2\n)":                     0,
		"const (\n\t// b is a number.\n\ta = 1\n\tb = 2\n)":                         1,
		"type b struct{}\n\n// b does it.\nfunc (b) a() {}":                         1,
		"type b struct{}\n\n// a does it to b.\nfunc (b) a() {}":                    0,
		"import \"fmt\"\n\n// fmt prints it.\nfunc a() { fmt.Println() }":           0,
		"// a does it.\n//\n// b is left alone.\nfunc a() {}\n\n// b.\nfunc b() {}": 0,
	} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, "x.go", "package x\n\n"+source+"\n", parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if got := misplaced(set, []*ast.File{file}); len(got) != want {
			t.Errorf("%s\n%d are found, want %d: %v", source, len(got), want, got)
		}
	}
}
