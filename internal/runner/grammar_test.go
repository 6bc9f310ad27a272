package runner

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// grammar describes the valid command lines of a program, by its documentation. It finds a
// misspelt or removed option without the program.
type grammar struct {
	Program string `json:"program"`
	Version string `json:"version"`
	Source  string `json:"source"`
	// Words come before the options.
	Words   []string                 `json:"words"`
	Options map[string]grammarOption `json:"options"`
	// Positional is the number of arguments after the options.
	Positional int `json:"positional"`
	// DoubledCommas means that a comma in a value is written twice.
	DoubledCommas bool `json:"doubledCommas"`
}

// grammarOption allows any value if all its fields are empty.
type grammarOption struct {
	Flag bool `json:"flag"`
	// Many values may follow.
	Many bool `json:"many"`
	// Pattern matches the whole value.
	Pattern string `json:"pattern"`
	// Keys are the allowed keys of KEY=VALUE, separated by commas; Bare may come after
	// the first value.
	Keys []string `json:"keys"`
	Bare []string `json:"bare"`
	// First has the keys that are allowed with the value's first part, "*" for any.
	First map[string][]string `json:"first"`
	// Required are those of First that are required.
	Required map[string][]string `json:"required"`
}

func (g grammar) check(argv []string) error {
	args := argv[1:]
	for _, w := range g.Words {
		if len(args) == 0 || args[0] != w {
			return fmt.Errorf("argument %q is required", w)
		}
		args = args[1:]
	}
	for len(args) > g.Positional {
		name, inline, hasInline := strings.Cut(args[0], "=")
		o, ok := g.Options[name]
		if !ok {
			return fmt.Errorf("%s %s has no option %q", g.Program, g.Version, args[0])
		}
		args = args[1:]
		switch {
		case hasInline:
			args = append([]string{inline}, args...)
		case o.Flag:
			continue
		}
		for first := true; first || o.Many && len(args) > 0 && !strings.HasPrefix(args[0], "-"); first = false {
			if len(args) == 0 {
				return fmt.Errorf("%s has no value", name)
			}
			if err := o.check(args[0], g.DoubledCommas); err != nil {
				return fmt.Errorf("%s %q: %w", name, args[0], err)
			}
			args = args[1:]
		}
	}
	if len(args) != g.Positional {
		return fmt.Errorf("%d arguments behind the options, not %d", len(args), g.Positional)
	}
	return nil
}

func (o grammarOption) check(value string, doubled bool) error {
	if o.Pattern != "" {
		if !regexp.MustCompile("^(?:" + o.Pattern + ")$").MatchString(value) {
			return fmt.Errorf("does not match %s", o.Pattern)
		}
		return nil
	}
	if o.Keys == nil && o.First == nil && o.Bare == nil {
		return nil
	}
	if doubled {
		value = strings.ReplaceAll(value, ",,", "")
	}
	parts := splitOutsideBrackets(value)
	allowed := o.Keys
	if o.First != nil {
		keys, ok := o.First[parts[0]]
		if !ok {
			keys, ok = o.First["*"]
		}
		if !ok {
			return fmt.Errorf("%q is not one of %v", parts[0], slices.Sorted(maps.Keys(o.First)))
		}
		for _, key := range o.Required[parts[0]] {
			if !slices.ContainsFunc(parts[1:], func(part string) bool { return strings.HasPrefix(part, key+"=") }) {
				return fmt.Errorf("key %q is required", key)
			}
		}
		allowed, parts = keys, parts[1:]
	}
	if o.Bare != nil {
		allowed, parts = o.Bare, parts[1:]
	}
	for _, part := range parts {
		key, _, isPair := strings.Cut(part, "=")
		if !slices.Contains(allowed, key) || isPair == (o.Bare != nil) && key != "server" && key != "nowait" {
			// A lone value is the first key's, as in --vsock 5.
			if !isPair && len(parts) == 1 && o.Keys != nil {
				continue
			}
			return fmt.Errorf("key %q is not one of %v", part, allowed)
		}
	}
	return nil
}

// splitOutsideBrackets splits at commas outside of [ ].
func splitOutsideBrackets(value string) []string {
	var out []string
	depth, start := 0, 0
	for i, r := range value {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ',' && depth == 0:
			out = append(out, value[start:i])
			start = i + 1
		}
	}
	return append(out, value[start:])
}

func readGrammars(t *testing.T) map[string]grammar {
	t.Helper()
	out := map[string]grammar{}
	paths, err := fs.Glob(testdata, "testdata/grammar/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := testdata.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var g grammar
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.DisallowUnknownFields()
		if err := d.Decode(&g); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if g.Version == "" || g.Source == "" {
			t.Errorf("%s does not name its source", path)
		}
		out[g.Program] = g
	}
	return out
}

// TestEveryCommandLineIsInTheProgramsGrammar checks the command lines of all golden packages
// by the grammars.
func TestEveryCommandLineIsInTheProgramsGrammar(t *testing.T) {
	grammars := readGrammars(t)
	for _, name := range specNames(t) {
		s := readSpec(t, name)
		plan, err := withQEMU(10, 0).Compile(s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		program := plan.Argv[0][strings.LastIndex(plan.Argv[0], "/")+1:]
		program = strings.TrimSuffix(strings.TrimSuffix(program, "-x86_64"), "-aarch64")
		g, ok := grammars[program]
		if !ok {
			t.Errorf("%s: there is no grammar of %s", name, program)
			continue
		}
		err = g.check(slices.Concat(plan.Argv, plan.Landlock))
		if s.Hypervisor == "cloud-hypervisor" && s.Graphics.Enable {
			// The released ones do not have it.
			if err == nil || !strings.Contains(err.Error(), `no option "--gpu"`) {
				t.Errorf("%s: %v, want no --gpu", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheGrammarsRefuseWhatIsNotTheirs makes sure that the test above can fail.
func TestTheGrammarsRefuseWhatIsNotTheirs(t *testing.T) {
	grammars := readGrammars(t)
	for _, bad := range []string{
		"alioth boot --entropy",
		"alioth run --net tap,ifname=x",
		"alioth run --net macvtap,if=x",
		"alioth run --net tap,if=x,mac=02:00:00:00:00:01",
		"alioth run --object a,b",
		"lkvm run -c two",
		"lkvm run -d a.img,rw",
		"lkvm run -n mode=tap,host_mac=02:00:00:00:00:01",
		"lkvm run --graceful",
		"stratovirt -device virtio-blk,drive=x",
		"stratovirt -machine q35",
		"cloud-hypervisor --disk path=a file=b",
		"cloud-hypervisor --seccomp",
		"cloud-hypervisor --disks path=a",
		"firecracker --config firecracker.json",
		"crosvm run --mem 5",
		"crosvm run --net tap=x kernel",
		"qemu-system -device virtio-blk-device,drives=x",
		"qemu-system -chardev stdio,wait=off",
		"qemu-system -enable-kvm",
	} {
		argv := strings.Fields(bad)
		if err := grammars[argv[0]].check(argv); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
