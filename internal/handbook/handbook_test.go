package handbook

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

var update = flag.Bool("update", false, "write the generated chapters anew")

const (
	optionsFile = "../../test/nix/golden/options.json"
	docs        = "../../docs/"
)

func load(t *testing.T) (Options, []byte) {
	t.Helper()
	data, err := os.ReadFile(optionsFile)
	if err != nil {
		t.Fatal(err)
	}
	o, err := ParseOptions(data)
	if err != nil {
		t.Fatal(err)
	}
	return o, spec.Schema()
}

// TestOptionsAndSpecAreTheSame: whoever adds a field or an option adds the
// other one, too.
func TestOptionsAndSpecAreTheSame(t *testing.T) {
	o, schema := load(t)
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
		"a missing option":   {func(o []Option) []Option { return without(o, "microvm.mem") }, "mem is a field of the spec and no option"},
		"an unknown option":  {func(o []Option) []Option { return append(o, Option{Name: "microvm.colour"}) }, "colour is an option and no field of the spec"},
		"a stale exception":  {func(o []Option) []Option { return without(o, "microvm.bootDisk") }, "bootDisk is listed as an option and is none"},
		"another type":       {replace("microvm.vcpu", func(o *Option) { o.Type = "string" }), "vcpu: the spec takes [integer]"},
		"another word":       {replace("microvm.shares.*.proto", func(o *Option) { o.Type = `one of "9p", "nfs"` }), "shares.*.proto: the spec takes one of [9p virtiofs]"},
		"words left out":     {replace("microvm.volumes.*.imageType", func(o *Option) { o.Type = "string" }), "volumes.*.imageType: the spec takes one of"},
		"another default":    {replace("microvm.mem", func(o *Option) { o.Default = text("1024") }), "mem: the option's default is 1024, the spec's 512"},
		"a default too many": {replace("microvm.cpu", func(o *Option) { o.Default = text(`"max"`) }), "cpu: the option's default is max"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, schema := load(t)
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

// TestChaptersAreCurrent: the generated chapters say what the code says.
func TestChaptersAreCurrent(t *testing.T) {
	o, schema := load(t)
	options, err := OptionsChapter(o, schema)
	if err != nil {
		t.Fatal(err)
	}
	table, err := HypervisorTable()
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"options-reference.md": options, "hypervisor-table.md": table} {
		if *update {
			if err := os.WriteFile(docs+file, []byte(want), 0o644); err != nil { //nolint:gosec // docs are public
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(docs + file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, []byte(want)) {
			t.Errorf("docs/%s is not current; run: go test ./internal/handbook -update", file)
		}
	}
}
