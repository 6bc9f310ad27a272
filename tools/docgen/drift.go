package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// onlySpec are the fields of the spec without an option of the same name, with the
// NixOS setting that they correspond to.
var onlySpec = map[string]string{
	"$schema": "for editors of JSON",
	"name":    "networking.hostName",
	"arch":    "the guest's pkgs",
	"system":  "microvm.systemSymlink",
}

// onlyNix are the options without a field of the same name: they affect only the
// guest's system or Nix.
var onlyNix = map[string]string{
	"guest.enable": "the module itself", "optimize.enable": "the guest's system",
	"vmHostPackages": "packages", "package": "packages",
	"runner": "output", "declaredRunner": "output", "spec": "output", "bootDisk": "output",
	"deploy.installOnHost": "output", "deploy.sshSwitch": "output", "deploy.rebuild": "output",
	"storeDiskType": "the store disk", "storeDiskErofsFlags": "the store disk",
	"storeDiskSquashfsFlags": "the store disk", "storeDiskExcludedClosures": "the store disk",
	"registerClosure": "the guest's system", "writableStoreOverlay": "the guest's mounts",
	"systemSymlink": "field system", "vsock.ssh.enable": "the guest's system",
}

// computed are the options whose default is an expression. The tests of the modules
// check, with evaluated specs, that it equals the spec's default.
var computed = []string{
	"socket", "machineId", "hotpluggedMem", "initrdPath", "storeOnDisk",
	"graphics.socket", "qemu.machine", "shares.*.socket",
}

// wider are the fields whose option has another type on purpose, with that type.
var wider = map[string]string{
	// A guest can mount any file system; the rules check those that autoCreate makes.
	"volumes.*.fsType": "string",
	// A guest always mounts its shares, so the option is required.
	"shares.*.mountPoint": "absolute path",
}

// Drift returns the differences between the options of the guest module and the fields
// of the spec: in their names, types, allowed values and defaults.
func Drift(options []Option, specSchema []byte) ([]string, error) {
	all, err := fields(specSchema)
	if err != nil {
		return nil, err
	}
	byName := map[string]Option{}
	for _, o := range options {
		byName[strings.TrimPrefix(o.Name, "microvm.")] = o
	}
	var out []string
	for _, f := range all {
		o, ok := byName[f.name]
		delete(byName, f.name)
		_, excused := onlySpec[f.name]
		switch {
		case !ok && excused:
		case !ok:
			out = append(out, fmt.Sprintf("%s is a field of the spec, but not an option", f.name))
		case excused:
			out = append(out, fmt.Sprintf("%s is an option, but is listed in onlySpec", f.name))
		default:
			out = append(out, differ(f, o)...)
		}
	}
	for name := range byName {
		if _, excused := onlyNix[name]; !excused {
			out = append(out, fmt.Sprintf("%s is an option, but not a field of the spec", name))
		}
	}
	for name := range onlyNix {
		if _, ok := byName[name]; !ok {
			out = append(out, fmt.Sprintf("%s is listed in onlyNix, but is not an option", name))
		}
	}
	slices.Sort(out)
	return out, nil
}

// differ returns the differences between a field and its option.
func differ(f field, o Option) []string {
	var out []string
	if want, ok := wider[f.name]; ok {
		if o.Type != want {
			out = append(out, fmt.Sprintf("%s has type %q, want %q as in wider", f.name, o.Type, want))
		}
		return out
	}
	if problem := sameType(f, o); problem != "" {
		out = append(out, f.name+": "+problem)
	}
	if problem := sameDefault(f, o); problem != "" {
		out = append(out, f.name+": "+problem)
	}
	return out
}

// nixTypes are the module system's types that correspond to each JSON type.
var nixTypes = map[string][]string{
	"string":  {"string", "non-empty string", "absolute path", "package", "strings concatenated with \"\\n\""},
	"boolean": {"boolean"},
	"integer": {
		"signed integer", "positive integer, meaning >0", "unsigned integer, meaning >=0",
		"16 bit unsigned integer; between 0 and 65535 (both inclusive)",
	},
	"array":  {"list of string", "list of (submodule)"},
	"object": {"attribute set", "attribute set of anything", "attribute set of string", "attribute set of absolute path", "attribute set of strings concatenated with \"\\n\""},
}

// sameType compares the types and returns the difference, or "". An option that may be
// null corresponds to a field that may be omitted.
func sameType(f field, o Option) string {
	word := strings.TrimPrefix(o.Type, "null or ")
	nullable := word != o.Type
	if inner, ok := strings.CutPrefix(word, "("); ok {
		word = strings.TrimSuffix(inner, ")")
	}
	kinds := f.kinds()
	if slices.Contains(kinds, "null") && !nullable && o.Default == nil {
		return fmt.Sprintf("the spec accepts null, but the option has type %q and no default", o.Type)
	}
	if words, ok := strings.CutPrefix(word, "one of "); ok {
		return sameWords(f, words)
	}
	if len(f.Enum) > 0 {
		return fmt.Sprintf("the spec accepts one of %v, but the option has type %q", f.values(), o.Type)
	}
	if word == "string or (unsigned integer, meaning >=0)" {
		kinds = slices.Compact(slices.Sorted(slices.Values(kinds)))
		if slices.Equal(slices.DeleteFunc(kinds, func(k string) bool { return k == "null" }), []string{"integer", "string"}) {
			return ""
		}
	}
	for _, kind := range kinds {
		if slices.Contains(nixTypes[kind], word) {
			return ""
		}
	}
	return fmt.Sprintf("the spec accepts %v, but the option has type %q", f.kinds(), o.Type)
}

// sameWords compares the values of two enumerations and returns the difference, or "".
func sameWords(f field, list string) string {
	var words []string
	for w := range strings.SplitSeq(list, ", ") {
		words = append(words, strings.Trim(w, `"`))
	}
	slices.Sort(words)
	if want := f.values(); !slices.Equal(words, want) {
		return fmt.Sprintf("the spec accepts one of %v, but the option one of %v", want, words)
	}
	return ""
}

// sameDefault compares the defaults, if they are plain values, and returns the
// difference, or "".
func sameDefault(f field, o Option) string {
	if slices.Contains(computed, f.name) || o.Type == "package" {
		return ""
	}
	if o.Default == nil {
		if f.Default != nil {
			return fmt.Sprintf("the spec's default is %v, but the option has none", f.Default)
		}
		return ""
	}
	nix, err := plain(*o.Default)
	if err != nil {
		return fmt.Sprintf("the option's default %s is not a plain value: add the option to computed", *o.Default)
	}
	if empty(nix) && f.Default == nil {
		return ""
	}
	// Numbers and strings of JSON are printed alike on both sides.
	if a, b := fmt.Sprint(nix), fmt.Sprint(f.Default); a != b {
		return fmt.Sprintf("the option's default is %s, the spec's %s", a, b)
	}
	return ""
}

// plain decodes a Nix expression that is also valid JSON, apart from blanks in empty
// brackets.
func plain(text string) (any, error) {
	text = strings.NewReplacer("[ ]", "[]", "{ }", "{}").Replace(text)
	var v any
	err := json.Unmarshal([]byte(text), &v)
	return v, err
}

// empty reports whether a value means the same as an omitted field.
func empty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case string:
		return x == ""
	case bool:
		return !x
	case float64:
		return x == 0
	case []any:
		return len(x) == 0
	case map[string]any:
		return len(x) == 0
	}
	return false
}
