package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// onlySpec are fields of the spec without an option of the same name, with what
// NixOS has in their place.
var onlySpec = map[string]string{
	"$schema": "for editors of JSON",
	"name":    "networking.hostName",
	"arch":    "the guest's pkgs",
	"system":  "microvm.systemSymlink",
}

// onlyNix are options without a field of the same name: they are about the
// guest's own system, or about Nix.
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

// computed are options whose default is an expression; evaluated specs show
// that it means what the spec's own default does.
var computed = []string{
	"socket", "machineId", "hotpluggedMem", "initrdPath", "storeOnDisk",
	"graphics.socket", "qemu.machine", "shares.*.socket",
}

// wider are fields whose option is narrower or wider on purpose.
var wider = map[string]string{
	// Any file system can be mounted; what can be made is checked with autoCreate.
	"volumes.*.fsType": "string",
	// A guest that has a share mounts it somewhere.
	"shares.*.mountPoint": "absolute path",
}

// Drift says where the options of the guest module and the fields of the spec
// differ: in their names, types, allowed words or defaults.
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
			out = append(out, fmt.Sprintf("%s is a field of the spec and no option", f.name))
		case excused:
			out = append(out, fmt.Sprintf("%s is an option and is listed as none", f.name))
		default:
			out = append(out, differ(f, o)...)
		}
	}
	for name := range byName {
		if _, excused := onlyNix[name]; !excused {
			out = append(out, fmt.Sprintf("%s is an option and no field of the spec", name))
		}
	}
	for name := range onlyNix {
		if _, ok := byName[name]; !ok {
			out = append(out, fmt.Sprintf("%s is listed as an option and is none", name))
		}
	}
	slices.Sort(out)
	return out, nil
}

func differ(f field, o Option) []string {
	var out []string
	if want, ok := wider[f.name]; ok {
		if o.Type != want {
			out = append(out, fmt.Sprintf("%s has type %q; %q was agreed", f.name, o.Type, want))
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

// nixTypes are the module system's words for each JSON type.
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

// sameType compares the types; "" means that they are the same. An option that
// may be null stands for a field that may be left out.
func sameType(f field, o Option) string {
	word := strings.TrimPrefix(o.Type, "null or ")
	nullable := word != o.Type
	if inner, ok := strings.CutPrefix(word, "("); ok {
		word = strings.TrimSuffix(inner, ")")
	}
	kinds := f.kinds()
	if slices.Contains(kinds, "null") && !nullable && o.Default == nil {
		return fmt.Sprintf("the spec takes null, and the option is %q without a default", o.Type)
	}
	if words, ok := strings.CutPrefix(word, "one of "); ok {
		return sameWords(f, words)
	}
	if len(f.Enum) > 0 {
		return fmt.Sprintf("the spec takes one of %v, and the option is %q", f.values(), o.Type)
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
	return fmt.Sprintf("the spec takes %v, and the option is %q", f.kinds(), o.Type)
}

func sameWords(f field, list string) string {
	var words []string
	for w := range strings.SplitSeq(list, ", ") {
		words = append(words, strings.Trim(w, `"`))
	}
	slices.Sort(words)
	if want := f.values(); !slices.Equal(words, want) {
		return fmt.Sprintf("the spec takes one of %v, the option one of %v", want, words)
	}
	return ""
}

// sameDefault compares the defaults, as far as they are plain values.
func sameDefault(f field, o Option) string {
	if slices.Contains(computed, f.name) || o.Type == "package" {
		return ""
	}
	if o.Default == nil {
		if f.Default != nil {
			return fmt.Sprintf("the spec's default is %v, and the option has none", f.Default)
		}
		return ""
	}
	nix, err := plain(*o.Default)
	if err != nil {
		return fmt.Sprintf("the option's default %s is no plain value; list it among the computed ones", *o.Default)
	}
	if empty(nix) && f.Default == nil {
		return ""
	}
	// JSON's numbers and words are the same on both sides.
	if a, b := fmt.Sprint(nix), fmt.Sprint(f.Default); a != b {
		return fmt.Sprintf("the option's default is %s, the spec's %s", a, b)
	}
	return ""
}

// plain reads a Nix expression that is as good as JSON.
func plain(text string) (any, error) {
	text = strings.NewReplacer("[ ]", "[]", "{ }", "{}").Replace(text)
	var v any
	err := json.Unmarshal([]byte(text), &v)
	return v, err
}

// empty says that a value is the same as a field that is left out.
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
