package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	root = "../.."
	docs = root + "/docs/"
)

func mustLoad(t *testing.T) (Options, []byte) {
	t.Helper()
	o, schema, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	return o, schema
}

// TestOptionsAndSpecAreTheSame fails if a field or an option was added without the
// other.
func TestOptionsAndSpecAreTheSame(t *testing.T) {
	o, schema := mustLoad(t)
	drift, err := Drift(o.Guest, schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drift {
		t.Error(d)
	}
}

func TestDriftIsNoticed(t *testing.T) {
	tests := map[string]struct {
		change func(o []Option) []Option
		want   string
	}{
		"a missing option":   {func(o []Option) []Option { return without(o, "microvm.mem") }, "mem is a field of the spec, but not an option"},
		"an unknown option":  {func(o []Option) []Option { return append(o, Option{Name: "microvm.colour"}) }, "colour is an option, but not a field of the spec"},
		"a stale exception":  {func(o []Option) []Option { return without(o, "microvm.bootDisk") }, "bootDisk is listed in onlyNix, but is not an option"},
		"another type":       {replace("microvm.vcpu", func(o *Option) { o.Type = "string" }), "vcpu: the spec accepts [integer]"},
		"another value":      {replace("microvm.shares.*.proto", func(o *Option) { o.Type = `one of "9p", "nfs"` }), "shares.*.proto: the spec accepts one of [9p virtiofs]"},
		"values missing":     {replace("microvm.volumes.*.imageType", func(o *Option) { o.Type = "string" }), "volumes.*.imageType: the spec accepts one of"},
		"another default":    {replace("microvm.mem", func(o *Option) { o.Default = text("1024") }), "mem: the option's default is 1024, the spec's 512"},
		"a default too many": {replace("microvm.cpu", func(o *Option) { o.Default = text(`"max"`) }), "cpu: the option's default is max"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, schema := mustLoad(t)
			drift, err := Drift(tt.change(o.Guest), schema)
			if err != nil {
				t.Fatal(err)
			}
			if len(drift) != 1 || !strings.HasPrefix(drift[0], tt.want) {
				t.Errorf("got %q, want one that begins with %q", drift, tt.want)
			}
		})
	}
}

func text(s string) *string { return &s }

func without(options []Option, name string) []Option {
	return slices.DeleteFunc(slices.Clone(options), func(o Option) bool { return o.Name == name })
}

func replace(name string, f func(*Option)) func([]Option) []Option {
	return func(options []Option) []Option {
		options = slices.Clone(options)
		f(&options[slices.IndexFunc(options, func(o Option) bool { return o.Name == name })])
		return options
	}
}

// TestChaptersAreCurrent compares the generated chapters with the code.
func TestChaptersAreCurrent(t *testing.T) {
	chapters, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range chapters {
		have, err := os.ReadFile(docs + file)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != want {
			t.Errorf("docs/%s is out of date; run: go generate ./tools/docgen", file)
		}
	}
}
