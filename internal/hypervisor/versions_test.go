package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"microvm/internal/spec"
)

// TestAPlanSaysForWhichVersionsItIs compiles for every version on which something could
// depend: plans with the same range of versions must be the same.
func TestAPlanSaysForWhichVersionsItIs(t *testing.T) {
	all := []version{{1, 5}, {1, 7}, {1, 8}, {1, 12}, {1, 13}, {1, 16}, {2, 4}, {2, 5}, {7, 2}, {9, 1}, {9, 2}, {9, 3}}
	for major := range 61 {
		all = append(all, version{major, 0})
	}
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		t.Run(name, func(t *testing.T) {
			s, err := spec.Parse([]byte(fmt.Sprintf(`{"name":"a","arch":"x86_64","kernel":"/k","hypervisor":%q,
"volumes":[{"image":"a.img","size":1,"mountPoint":"/a"}]}`, name)))
			if err != nil {
				t.Fatal(err)
			}
			plans, texts := map[version]*Plan{}, map[version]string{}
			for _, v := range all {
				b := &Builder{Version: func(string) (int, int, error) { return v.major, v.minor, nil }}
				if plans[v], err = b.Compile(s); err != nil {
					t.Fatal(err)
				}
				rest := *plans[v]
				rest.CompiledFor = nil
				text, err := json.Marshal(rest)
				if err != nil {
					t.Fatal(err)
				}
				texts[v] = string(text)
			}
			said := map[Versions]version{} // one version of each range
			for _, v := range all {
				if c := plans[v].CompiledFor; c != nil {
					said[*c] = v
				}
			}
			for _, v := range said {
				c := plans[v].CompiledFor
				for _, w := range all {
					if c.Includes(w.major, w.minor) != (*plans[w].CompiledFor == *c) {
						t.Fatalf("the plan for %s has %q, that for %s %q", v, c, w, plans[w].CompiledFor)
					}
					if c.Includes(w.major, w.minor) && texts[v] != texts[w] {
						t.Fatalf("the plan for %s has %q, and that for %s differs", v, c, w)
					}
				}
			}
			b := &Builder{Version: func(string) (int, int, error) { return 0, 0, errors.New("not there") }}
			p, err := b.Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			depends := plans[all[0]].CompiledFor != nil
			if unknown := p.CompiledFor != nil && p.CompiledFor.Unknown; unknown != depends {
				t.Errorf("for an unknown version: %v; it depends on the version: %t", p.CompiledFor, depends)
			}
			if depends && p.CompiledFor.Includes(9, 2) {
				t.Error("a plan for an unknown version includes one")
			}
		})
	}
}
