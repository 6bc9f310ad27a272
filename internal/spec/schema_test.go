package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the checked-in files")

// The schema is in the program, and in the documentation, which links to it.
const (
	schemaFile     = "schema.json"
	schemaDocument = "../../docs/spec.schema.json"
)

// TestTheCheckedInSchemaIsCurrent also generates it, for go generate: the programs need
// only the result.
func TestTheCheckedInSchemaIsCurrent(t *testing.T) {
	want := generateSchema(t)
	for _, file := range []string{schemaFile, schemaDocument} {
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(have)); diff != "" {
			t.Errorf("%s is not current; run: go generate ./internal/spec\n%s", file, diff)
		}
	}
	if !*update && !bytes.Equal(want, Schema()) {
		t.Error("Schema returns another one")
	}
}

func generateSchema(t *testing.T) []byte {
	t.Helper()
	root := schemaObject("", reflect.TypeFor[Spec]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "microvm spec"
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// TestEveryOptionHasAnEntry, and every entry belongs to an option.
func TestEveryOptionHasAnEntry(t *testing.T) {
	paths := optionPaths("", reflect.TypeFor[Spec]())
	if len(paths) < 100 {
		t.Fatalf("found only %d options", len(paths))
	}
	for path, kind := range paths {
		f, ok := fields[path]
		element := strings.HasSuffix(path, "[]") || strings.HasSuffix(path, ".*")
		switch {
		case !ok && !element:
			t.Errorf("%s has no entry", path)
		case !element && (!strings.HasSuffix(f.doc, ".") || strings.Contains(f.doc, "nil")):
			t.Errorf("%s: the doc is not a sentence, or mentions nil: %q", path, f.doc)
		}
		if f.value == nil {
			continue
		}
		text, err := json.Marshal(f.value)
		if err == nil {
			err = json.Unmarshal(text, reflect.New(kind).Interface())
		}
		if err != nil {
			t.Errorf("%s: the default %v does not have the option's type: %v", path, f.value, err)
		}
	}
	for path := range fields {
		if _, ok := paths[path]; !ok {
			t.Errorf("%s is not an option", path)
		}
	}
}

// optionPaths are the options of a type and the elements of its lists and maps, with
// their types.
func optionPaths(path string, t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	if path != "" {
		out[path] = t
	}
	add := func(path string, t reflect.Type) {
		for p, kind := range optionPaths(path, t) {
			out[p] = kind
		}
	}
	if inner, ok := optionalOf(t); ok {
		add(path, inner)
		return out
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		return out
	}
	switch t.Kind() {
	case reflect.Pointer:
		add(path, t.Elem())
	case reflect.Slice:
		add(path+"[]", t.Elem())
	case reflect.Map:
		add(path+".*", t.Elem())
	case reflect.Struct:
		for name, kind := range fieldsOf(t) {
			add(join(path, name), kind)
		}
	}
	return out
}

// schemaNode is the schema of one type at a path.
func schemaNode(path string, t reflect.Type) map[string]any {
	if inner, ok := optionalOf(t); ok {
		return nullable(schemaNode(path, inner))
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		return map[string]any{"oneOf": []any{
			map[string]any{"type": "integer", "minimum": 0},
			map[string]any{"type": "string", "pattern": "^([0-9]+|`nproc`)$"},
		}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return nullable(schemaNode(path, t.Elem()))
	case reflect.Struct:
		return schemaObject(path, t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaNode(path+"[]", t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaNode(path+".*", t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		n := map[string]any{"type": "integer"}
		if f := fields[path]; f.least != 0 {
			n["minimum"] = f.least
		}
		if f := fields[path]; f.most != 0 {
			n["maximum"] = f.most
		}
		return n
	case reflect.String:
		n := map[string]any{"type": "string"}
		if fields[path].empty != allowed && fields[path].enum == nil {
			n["minLength"] = 1
		}
		return n
	}
	return map[string]any{} // any JSON value
}

func nullable(n map[string]any) map[string]any {
	if kind, ok := n["type"].(string); ok {
		n["type"] = []any{kind, "null"}
		return n
	}
	return map[string]any{"anyOf": []any{n, map[string]any{"type": "null"}}}
}

// schemaObject is the schema of a struct, with the entries of its members in fields.
func schemaObject(path string, t reflect.Type) map[string]any {
	properties := map[string]any{}
	var needed []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		at := join(path, name)
		n, f := schemaNode(at, t.Field(i).Type), fields[at]
		n["description"] = f.doc
		if f.enum != nil {
			n["enum"] = f.enum
			if _, isNullable := n["type"].([]any); isNullable {
				n["enum"] = append(toAny(f.enum), nil)
			}
		}
		if f.value != nil {
			n["default"] = f.value
		}
		if f.required {
			needed = append(needed, name)
		}
		properties[name] = n
	}
	o := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if needed != nil {
		o["required"] = needed
	}
	return o
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}
