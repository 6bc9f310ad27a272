package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Limits of a document; a spec is a few kilobytes at most.
const (
	maxDocument = 4 << 20
	maxDepth    = 64
)

// Parse reads a document, fills in the defaults and validates it. The error is
// of type Faults and names everything that is wrong.
func Parse(data []byte) (*Spec, error) {
	s, form, err := parse(data)
	if err == nil {
		err = s.finish(form, nil)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Rule says what more is wrong with a spec that has its defaults and need not be
// valid otherwise.
type Rule func(*Spec) Faults

// ParseFile parses the document at path. Relative paths of the kernel, the
// initrd, the store disk, the packages and the credential files are taken from the
// document's own directory, as a person who writes them beside it expects. stateDir is
// the host's directory of VMs, Spec.StateDir. What the rules say comes after the faults
// of this package, in the same error.
func ParseFile(path, stateDir string, rules ...Rule) (*Spec, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("find the directory of %s: %w", path, err)
	}
	s, form, err := parse(data)
	if err == nil {
		s.StateDir = stateDir
		s.resolvePaths(dir)
		err = s.finish(form, rules)
	}
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", path, err)
	}
	return s, nil
}

// finish fills in the defaults and validates. What has the wrong form is left out
// of s; the rest is validated all the same, so that one reading finds everything.
func (s *Spec) finish(form Faults, rules []Rule) error {
	s.SetDefaults()
	var content Faults
	if err := s.Validate(); !errors.As(err, &content) && err != nil {
		return err
	}
	content = slices.DeleteFunc(content, func(c Fault) bool {
		return slices.ContainsFunc(form, func(f Fault) bool { return follows(c.Path, f) })
	})
	all := slices.Concat(form, content)
	if slices.ContainsFunc(form, func(f Fault) bool { return f.Path == "hypervisor" || f.Path == "arch" }) {
		return all.Err() // what was left out chooses the rules
	}
	for _, rule := range rules {
		all = all.and(slices.DeleteFunc(rule(s), func(r Fault) bool {
			return slices.ContainsFunc(form, func(f Fault) bool { return slices.Contains(rulesDependOn[r.Path], topLevel(f.Path)) })
		}))
	}
	return all.Err()
}

// and is fs with what a rule adds to it. Of two faults of one path the first
// stays, unless it yields.
func (fs Faults) and(more Faults) Faults {
	have := len(fs)
	for _, m := range more {
		i := slices.IndexFunc(fs[:have], func(f Fault) bool { return f.Path == m.Path })
		switch {
		case i < 0:
			fs = append(fs, m)
		case fs[i].yields:
			fs[i] = m
		}
	}
	return fs
}

// dependsOn are the options whose rules ask for the value of others.
var dependsOn = map[string][]string{
	"forwardPorts":      {"interfaces"},
	"hotpluggedMem":     {"hotplugMem"},
	"initialBalloonMem": {"balloon", "mem"},
	"storeDisk":         {"storeOnDisk"},
}

// rulesDependOn is the same for the rules of hypervisors.
var rulesDependOn = map[string][]string{
	"balloon":   {"socket"},
	"readiness": {"socket", "vsock"},
}

// follows says whether a fault at path may only be there because the value that
// fault form is about was left out: it is the same option, one of the same
// element of a list, or one that depends on it.
func follows(path string, form Fault) bool {
	if form.unknown {
		return false // nothing that has a meaning was left out
	}
	return element(path) == element(form.Path) || slices.Contains(dependsOn[path], topLevel(form.Path))
}

// element cuts a path behind the index of its list, where it has one.
func element(path string) string {
	before, _, found := strings.Cut(path, "]")
	if !found {
		return path
	}
	return before + "]"
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read spec %s: %w", path, err)
	}
	return data, nil
}

// resolvePaths makes the paths of the document's own files absolute.
func (s *Spec) resolvePaths(dir string) {
	s.resolvePackages(dir)
	for _, p := range []*string{&s.Kernel, &s.InitrdPath, &s.StoreDisk} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for name, p := range s.CredentialFiles {
		if p != "" && !filepath.IsAbs(p) {
			s.CredentialFiles[name] = filepath.Join(dir, p)
		}
	}
}

// parse checks the document's form against the types and decodes what has the
// right one, without defaults or validation. err is for what is no document at all.
func parse(data []byte) (s *Spec, form Faults, err error) {
	if len(data) > maxDocument {
		return nil, nil, Faults{{Message: fmt.Sprintf("the document is larger than %d bytes", maxDocument)}}
	}
	root, err := readTree(data)
	if err != nil {
		return nil, nil, Faults{{Message: err.Error()}}
	}
	check(&form, "", root, reflect.TypeFor[Spec]())
	if len(form) > 0 && form[0].Path == "" {
		return nil, nil, form // not even an object
	}
	faulty := map[string]bool{}
	for _, f := range form {
		faulty[f.Path] = true
	}
	if len(faulty) > 0 {
		if data, err = json.Marshal(without(root, "", faulty)); err != nil {
			return nil, nil, Faults{{Message: err.Error()}}
		}
	}
	s = new(Spec)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, nil, append(form, Fault{Message: err.Error()})
	}
	return s, form, nil
}

// without is v less what is at the faulty paths. In a list a null keeps the place
// of an element, so that the others keep their index.
func without(v any, path string, faulty map[string]bool) any {
	switch v := v.(type) {
	case *object:
		kept := map[string]any{}
		for _, key := range v.keys {
			if at := join(path, key); !faulty[at] {
				kept[key] = without(v.values[key], at, faulty)
			}
		}
		return kept
	case []any:
		kept := make([]any, len(v))
		for i, e := range v {
			if at := fmt.Sprintf("%s[%d]", path, i); !faulty[at] {
				kept[i] = without(e, at, faulty)
			}
		}
		return kept
	}
	return v
}

// object keeps the order of a JSON object's members, so that faults come in
// the order of the document, and repeated members, so that they are noticed.
type object struct {
	keys   []string
	values map[string]any
	twice  []string
}

// readTree reads one JSON value into objects, []any and scalars.
func readTree(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, describeSyntax(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more text after the end of the document; remove it")
	}
	return v, nil
}

// describeSyntax adds the line to a syntax error.
func describeSyntax(data []byte, err error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New(`the document is empty; the least that it can be is {"name": "web", "kernel": "/path/to/the/kernel"}`)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the document ends in the middle; a bracket or a quote is not closed")
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	offset := min(int(syntax.Offset), len(data))
	return fmt.Errorf("line %d is not valid JSON: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}

func readValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the document nests deeper than %d levels; no option needs more than a few", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		return readObject(d, depth)
	case json.Delim('['):
		return readArray(d, depth)
	}
	return t, nil
}

func readObject(d *json.Decoder, depth int) (*object, error) {
	o := &object{values: map[string]any{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("a member of an object has no name; give it one, or take it out")
		}
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		if _, seen := o.values[key]; seen {
			o.twice = append(o.twice, key)
			continue
		}
		o.keys = append(o.keys, key)
		o.values[key] = v
	}
	_, err := d.Token()
	return o, err
}

func readArray(d *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for d.More() {
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}

// optionalOf returns T for Optional[T], and false for any other type.
func optionalOf(t reflect.Type) (reflect.Type, bool) {
	o, ok := reflect.Zero(t).Interface().(interface{ inner() reflect.Type })
	if !ok {
		return nil, false
	}
	return o.inner(), true
}

// check compares a value with the type it will be decoded into.
func check(faults *Faults, path string, v any, t reflect.Type) {
	if inner, ok := optionalOf(t); ok {
		if v == nil {
			return
		}
		check(faults, path, v, inner)
		return
	}
	if t.Kind() == reflect.Pointer {
		if v == nil {
			return
		}
		check(faults, path, v, t.Elem())
		return
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		checkThreadPool(faults, path, v)
		return
	}
	if v == nil {
		faults.Addf(path, "null is not allowed here; leave the field out for its default")
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		checkStruct(faults, path, v, t)
	case reflect.Slice:
		checkSlice(faults, path, v, t)
	case reflect.Map:
		checkMap(faults, path, v, t)
	case reflect.Interface:
	default:
		checkScalar(faults, path, v, t.Kind())
		checkZero(faults, path, v)
	}
}

func checkThreadPool(faults *Faults, path string, v any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = new(ThreadPoolSize).UnmarshalJSON(text)
	}
	if err != nil {
		faults.Addf(path, "%v", err)
	}
}

func checkStruct(faults *Faults, path string, v any, t reflect.Type) {
	o, ok := v.(*object)
	if !ok {
		faults.Addf(path, "want an object { … }, not %s", kindOf(v))
		return
	}
	known := fieldsOf(t)
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	for _, key := range o.twice {
		faults.Addf(join(path, key), "appears more than once; keep one")
	}
	for _, key := range o.keys {
		member, ok := known[key]
		if !ok {
			*faults = append(*faults, Fault{Path: join(path, key), Message: "unknown option" + suggestion(key, names), unknown: true})
			continue
		}
		check(faults, join(path, key), o.values[key], member)
	}
}

func checkSlice(faults *Faults, path string, v any, t reflect.Type) {
	list, ok := v.([]any)
	if !ok {
		faults.Addf(path, "want a list [ … ], not %s", kindOf(v))
		return
	}
	for i, e := range list {
		check(faults, fmt.Sprintf("%s[%d]", path, i), e, t.Elem())
	}
}

func checkMap(faults *Faults, path string, v any, t reflect.Type) {
	o, ok := v.(*object)
	if !ok {
		faults.Addf(path, "want an object { … }, not %s", kindOf(v))
		return
	}
	for _, key := range o.twice {
		faults.Addf(join(path, key), "appears more than once; keep one")
	}
	for _, key := range o.keys {
		check(faults, join(path, key), o.values[key], t.Elem())
	}
}

func checkScalar(faults *Faults, path string, v any, want reflect.Kind) {
	switch want {
	case reflect.String:
		if _, ok := v.(string); !ok {
			faults.Addf(path, "want a text in quotes, not %s", kindOf(v))
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			faults.Addf(path, "want true or false, not %s", kindOf(v))
		}
	default:
		n, ok := v.(json.Number)
		if !ok {
			faults.Addf(path, "want a whole number, not %s", kindOf(v))
			return
		}
		if _, err := n.Int64(); err != nil {
			faults.Addf(path, "want a whole number, not %s", n)
		}
	}
}

var index = pattern(`\[[0-9]+\]`)

// place is a path as the tables of options have it: without the numbers of
// elements and the names of an object's own members.
func place(path string) string {
	path = index().ReplaceAllString(path, "[]")
	for _, object := range []string{"binScripts", "credentialFiles", "qemu.machineOpts"} {
		if strings.HasPrefix(path, object+".") {
			return object + ".*"
		}
	}
	return path
}

// checkZero refuses a value that is there and would be taken for an absent one:
// afterwards the two look the same. It refuses a NUL byte as well, which can
// stand in no argument and no file name.
func checkZero(faults *Faults, path string, v any) {
	at := place(path)
	switch v := v.(type) {
	case string:
		switch {
		case strings.ContainsRune(v, 0):
			faults.Addf(path, "%q holds a NUL byte; remove it", v)
		case v == "" && fields[at].empty == refused && !fields[at].required:
			faults.Addf(path, "is empty\nhint: give a value, or leave the field out for its default")
		}
	case json.Number:
		if n, err := v.Int64(); err == nil && n == 0 && fields[at].zero != "" {
			faults.Addf(path, "%s", fields[at].zero)
		}
	}
}

// kindOf names a value for a message.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("the text %q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case json.Number:
		return "the number " + v.String()
	case []any:
		return "a list"
	}
	return "an object"
}

// fieldsOf maps the JSON names of a struct to the types of its fields.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			out[name] = t.Field(i).Type
		}
	}
	return out
}

// join appends a member's name to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
