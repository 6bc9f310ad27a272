package rules

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors are the packages below internal/, from the ground up. A package imports
// packages of lower floors only, which rules out circles. A new package
// belongs on the floor above the highest one that it imports.
var floors = [][]string{
	// What stands on nothing of ours.
	{"account", "durable", "printable", "process", "safepath", "shell"},
	{"exit"},
	{"foreign", "kvm", "mode", "mounts", "netif/event", "notify", "spec", "systemd", "term", "timeline", "virtiofsd/seccomp"},
	{"kernel", "rootlock"},
	{"console", "guest", "hypervisor", "vfio", "virtiofsd", "wait"},
	{"askguest", "control", "netif", "unit"},
	{"runner"},
	{"statedir"},
	// What the programs do.
	{"doctor", "start", "stop"},
	{"programs", "vm"},
	{"cli"},
}

const (
	module   = "microvm/"
	internal = module + "internal/"
)

// arrows are the imports of packages of ours by each package below internal/, by
// their paths in the module; those of tests do not count.
type arrows map[string][]string

// breaches reports the arrows that climb, the packages that are on no floor, and those
// on a floor that do not exist.
func breaches(floors [][]string, graph arrows) []string {
	floorOf := map[string]int{}
	for n, floor := range floors {
		for _, p := range floor {
			floorOf[internal+p] = n
		}
	}
	var out []string
	for _, from := range slices.Sorted(maps.Keys(graph)) {
		n, listed := floorOf[from]
		if !listed {
			out = append(out, fmt.Sprintf("%s is on no floor; add it to floors in test/rules/layers_test.go", from))
			continue
		}
		for _, to := range graph[from] {
			switch m, ok := floorOf[to]; {
			case !strings.HasPrefix(to, internal):
				out = append(out, fmt.Sprintf("%s imports %s, which is not below internal/", from, to))
			case ok && m >= n: // one that is not listed is said once
				out = append(out, fmt.Sprintf("%s, on floor %d, imports %s, on floor %d", from, n, to, m))
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(floorOf)) {
		if _, ok := graph[p]; !ok {
			out = append(out, fmt.Sprintf("%s is on a floor and does not exist; remove it from floors in test/rules/layers_test.go", p))
		}
	}
	return out
}

// imports reads the arrows of the source, whatever a file is built for.
func imports(t *testing.T) arrows {
	t.Helper()
	graph := arrows{}
	err := filepath.WalkDir(filepath.Join(root, "internal"), func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "testdata" {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		from := module + path.Clean(filepath.ToSlash(relative))
		to := graph[from]
		for _, i := range parsed.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if strings.HasPrefix(name, module) && !slices.Contains(to, name) {
				to = append(to, name)
			}
		}
		graph[from] = to
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

func TestNoPackageImportsUpward(t *testing.T) {
	graph := imports(t)
	if len(graph) < 20 {
		t.Fatalf("only %d packages were found", len(graph))
	}
	for _, b := range breaches(floors, graph) {
		t.Error(b)
	}
}

func TestTheFloorsFindWhatClimbs(t *testing.T) {
	two := [][]string{{"a", "b"}, {"c"}}
	for name, c := range map[string]struct {
		graph arrows
		want  []string
	}{
		"down":        {arrows{internal + "a": nil, internal + "b": nil, internal + "c": {internal + "a", internal + "b"}}, nil},
		"up":          {arrows{internal + "a": {internal + "c"}, internal + "b": nil, internal + "c": nil}, []string{"a, on floor 0, imports " + internal + "c, on floor 1"}},
		"aside":       {arrows{internal + "a": {internal + "b"}, internal + "b": nil, internal + "c": nil}, []string{"a, on floor 0, imports " + internal + "b, on floor 0"}},
		"a circle":    {arrows{internal + "a": {internal + "b"}, internal + "b": {internal + "a"}, internal + "c": nil}, []string{"a, on floor 0,", "b, on floor 0,"}},
		"a new one":   {arrows{internal + "a": nil, internal + "b": nil, internal + "c": nil, internal + "d": nil}, []string{"d is on no floor"}},
		"one is gone": {arrows{internal + "a": nil, internal + "c": nil}, []string{"b is on a floor and does not exist"}},
		"a test's":    {arrows{internal + "a": nil, internal + "b": nil, internal + "c": {module + "test/need"}}, []string{"c imports " + module + "test/need"}},
	} {
		got := breaches(two, c.graph)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(strings.TrimPrefix(got[i], internal), want) {
				t.Errorf("%s: %q, want %q", name, got[i], want)
			}
		}
	}
}
