// Command docgen writes the generated chapters of the handbook: the options
// reference, from the options of the NixOS modules and the schema of the spec, and the
// table of what each hypervisor supports. Its tests compare both sets of options (see
// Drift), because a guest that is declared in NixOS and a spec that a person writes
// must have the same meaning.
package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Option is one option of the NixOS modules, as the modules describe it.
type Option struct {
	// Name is the full name, such as microvm.volumes.*.image.
	Name string `json:"name"`
	// Type is the module system's description of the type, such as "null or string".
	Type        string `json:"type"`
	Description string `json:"description"`
	// Default and Example are Nix expressions, and nil if the option has none.
	Default  *string `json:"default"`
	Example  *string `json:"example"`
	ReadOnly bool    `json:"readOnly"`
}

// Options are the options of both modules.
type Options struct {
	Guest []Option `json:"guest"`
	Host  []Option `json:"host"`
}

// ParseOptions decodes the evaluated options of the modules.
func ParseOptions(data []byte) (Options, error) {
	var o Options
	if err := json.Unmarshal(data, &o); err != nil {
		return o, fmt.Errorf("read the modules' options: %w", err)
	}
	return o, nil
}

// schema is the part of JSON Schema that the spec's schema uses.
type schema struct {
	Type        any                `json:"type"`
	Description string             `json:"description"`
	Enum        []any              `json:"enum"`
	Default     any                `json:"default"`
	Properties  map[string]*schema `json:"properties"`
	Items       *schema            `json:"items"`
	// Additional is the schema of a map's values, or false.
	Additional json.RawMessage `json:"additionalProperties"`
	OneOf      []*schema       `json:"oneOf"`
	AnyOf      []*schema       `json:"anyOf"`
}

// field is one field of the spec under the name that its option would have.
type field struct {
	name string
	*schema
}

// fields returns all fields of the spec's schema, in alphabetical order.
func fields(data []byte) ([]field, error) {
	root := new(schema)
	if err := json.Unmarshal(data, root); err != nil {
		return nil, fmt.Errorf("read the spec's schema: %w", err)
	}
	var out []field
	flatten(&out, "", root)
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// flatten appends the fields of s, and of the objects and lists in it, to out.
func flatten(out *[]field, prefix string, s *schema) {
	for name, p := range s.Properties {
		at := prefix + name
		if len(p.Properties) == 0 {
			*out = append(*out, field{at, p})
		}
		flatten(out, at+".", p)
		if p.Items != nil {
			flatten(out, at+".*.", p.Items)
		}
	}
}

// kinds returns the JSON types that a field accepts.
func (s *schema) kinds() []string {
	switch t := s.Type.(type) {
	case string:
		return []string{t}
	case []any:
		var out []string
		for _, k := range t {
			out = append(out, fmt.Sprint(k))
		}
		return out
	}
	var out []string
	for _, alternative := range slices.Concat(s.OneOf, s.AnyOf) {
		out = append(out, alternative.kinds()...)
	}
	return out
}

// values returns the strings of an enumeration, sorted.
func (s *schema) values() []string {
	var out []string
	for _, v := range s.Enum {
		if word, ok := v.(string); ok {
			out = append(out, word)
		}
	}
	slices.Sort(out)
	return out
}
