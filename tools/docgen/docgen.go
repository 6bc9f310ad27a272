// Command docgen writes the chapters of the handbook that are generated: the
// reference of the options, from the options that the NixOS modules declare and
// the schema of the spec, and the table of what each hypervisor can do. Its tests
// compare the two sets of options (see Drift): a guest that is declared in NixOS and
// a spec that a person writes have to mean the same.
package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Option is one option of the NixOS modules, as they describe it themselves.
type Option struct {
	// Name with its path, such as microvm.volumes.*.image.
	Name string `json:"name"`
	// Type in the words of the module system, such as "null or string".
	Type        string `json:"type"`
	Description string `json:"description"`
	// Default and Example are Nix expressions; a nil Default means that there is none.
	Default  *string `json:"default"`
	Example  *string `json:"example"`
	ReadOnly bool    `json:"readOnly"`
}

// Options of both modules.
type Options struct {
	Guest []Option `json:"guest"`
	Host  []Option `json:"host"`
}

// ParseOptions reads the result of evaluating the modules' options.
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

// fields flattens the spec's schema, in alphabetical order.
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

// kinds are the JSON types that a field takes.
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

// values are the words of an enumeration, sorted.
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
