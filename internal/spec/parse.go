package spec

import (
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

// Parse reads a document, sets the defaults and validates it. The error is of type
// Faults and names everything that is wrong.
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

// Rule returns further faults of a spec. The spec has its defaults, but may be invalid.
type Rule func(*Spec) Faults

// ParseFile parses the document at path. Relative paths of the kernel, the initrd, the
// store disk, the packages and the credential files are relative to the document's own
// directory. stateDir is the host's directory of VMs, see Spec.StateDir. The faults that
// the rules return come after those of this package, in the same error.
func ParseFile(path, stateDir string, rules ...Rule) (*Spec, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read spec %s: %w", path, err)
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

// finish sets the defaults and validates. The values with a fault of form are not in s;
// the rest is validated nevertheless, to report everything at once.
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

// and returns fs with the faults of a rule. Of two faults of one path the first is
// kept, unless it yields.
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

// dependsOn lists the options whose rules depend on the value of others.
var dependsOn = map[string][]string{
	"forwardPorts":      {"interfaces"},
	"hotpluggedMem":     {"hotplugMem"},
	"initialBalloonMem": {"balloon", "mem"},
	"storeDisk":         {"storeOnDisk"},
}

// rulesDependOn is dependsOn for the rules of hypervisors.
var rulesDependOn = map[string][]string{
	"balloon":   {"socket"},
	"readiness": {"socket", "vsock"},
}

// follows reports whether a fault at path may result only from leaving out the value
// that has fault form: it is the same option, one of the same element of a list, or one
// that depends on it.
func follows(path string, form Fault) bool {
	if form.unknown {
		return false // no known value was left out
	}
	return element(path) == element(form.Path) || slices.Contains(dependsOn[path], topLevel(form.Path))
}

// element returns a path up to and including its first index, or the whole path if it
// has none.
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

// resolvePaths makes the paths that are relative to the document's directory absolute.
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

// parse checks the document's form against the types and decodes the values that have
// the right one, without defaults or validation. It returns err if the document is not
// a JSON object.
func parse(data []byte) (s *Spec, form Faults, err error) {
	if len(data) > maxDocument {
		return nil, nil, Faults{{Message: fmt.Sprintf("the document is larger than %d bytes", maxDocument)}}
	}
	root, err := readTree(data)
	if err != nil {
		form.Add("", err)
		return nil, nil, form
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

// without returns v without the values at the faulty paths. In a list a null replaces
// such an element, so that the others keep their index.
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
