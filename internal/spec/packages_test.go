package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestPackagesAreAbsoluteWhereverTheSpecIsReadFrom(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(filepath.Dir(dir))
	for path := range new(Spec).packages() {
		section, field, _ := strings.Cut(path, ".")
		document, err := json.Marshal(map[string]any{"name": "a", "kernel": "/k", section: map[string]any{field: "./result"}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "a.json")
		if err := os.WriteFile(file, document, 0o600); err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(filepath.Dir(dir), file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseFile(rel, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := *s.packages()[path]; got != dir+"/result" {
			t.Errorf("%s is %s, want %s/result", path, got, dir)
		}
		if _, err := Parse(document); err == nil || !strings.Contains(err.Error(), path+`: invalid path "./result": must be absolute`) {
			t.Errorf("%s, of a document without a directory: %v", path, err)
		}
	}
}

// TestEveryPackageIsKnown finds the fields by their name.
func TestEveryPackageIsKnown(t *testing.T) {
	found := 0
	var look func(reflect.Type)
	look = func(of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			if f.Type.Kind() == reflect.Struct {
				look(f.Type)
			}
			if strings.HasSuffix(f.Name, "Package") && f.Type.Kind() == reflect.String {
				found++
			}
		}
	}
	look(reflect.TypeFor[Spec]())
	if want := len(new(Spec).packages()); found != want || found < 9 {
		t.Errorf("%d fields name a package, and packages returns %d", found, want)
	}
}
