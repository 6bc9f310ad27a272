package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scalar is one option that is a text or a number: a path in the form of the
// tables, and its zero in JSON.
type scalar struct{ path, zero string }

// scalars are all of them, found in the types.
func scalars(path string, t reflect.Type) []scalar {
	if inner, ok := optionalOf(t); ok {
		return scalars(path, inner)
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		return []scalar{{path, `0`}, {path, `""`}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return scalars(path, t.Elem())
	case reflect.Slice:
		return scalars(path+"[]", t.Elem())
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return nil // a JSON object of a hypervisor's own
		}
		return scalars(path+".*", t.Elem())
	case reflect.Struct:
		var out []scalar
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			out = append(out, scalars(join(path, name), t.Field(i).Type)...)
		}
		return out
	case reflect.String:
		return []scalar{{path, `""`}}
	case reflect.Int, reflect.Int64:
		return []scalar{{path, `0`}}
	}
	return nil // false never looks like an absent field: options that default to true are pointers
}

// zeroMeansSomething are the zeros that are taken as they are, and what they mean.
var zeroMeansSomething = map[string]string{
	"$schema":                               "not used",
	"hotplugMem":                            "none; what nix/spec.nix writes always",
	"hotpluggedMem":                         "nothing is plugged at the start",
	"initialBalloonMem":                     "an empty balloon; what nix/spec.nix writes always",
	"preStart":                              "no commands",
	"binScripts.*":                          "a script that does nothing",
	"initrdPath":                            "no initrd",
	"kernelParams[]":                        "an empty argument",
	"forwardPorts[].host.address":           "any address",
	"forwardPorts[].guest.address":          "any address",
	"volumes[].size":                        "an image that is there (autoCreate is false)",
	"volumes[].mkfsExtraArgs[]":             "an empty argument",
	"shares[].extraArgs[]":                  "an empty argument",
	"virtiofsd.threadPoolSize 0":            "no pool of threads",
	"virtiofsd.extraArgs[]":                 "an empty argument",
	"qemu.extraArgs[]":                      "an empty argument",
	"qemu.machineOpts.*":                    "QEMU's to judge",
	"qemu.pcieRootPorts[].chassis":          "the first chassis",
	"cloud-hypervisor.platformOEMStrings[]": "an empty string",
	"cloud-hypervisor.extraArgs[]":          "an empty argument",
	"firecracker.extraArgs[]":               "an empty argument",
	"crosvm.extraArgs[]":                    "an empty argument",
}

// everyOption has each list and each object of a spec, so that a single value can
// be replaced.
const everyOption = `{"name":"web","arch":"x86_64","kernel":"/k",
	"interfaces":[{"type":"user","id":"u","mac":"02:00:00:00:00:01"},{"type":"bridge","id":"b","mac":"02:00:00:00:00:02","bridge":"br0"},
		{"type":"macvtap","id":"m","mac":"02:00:00:00:00:03","macvtap":{"link":"eth0","mode":"bridge"}}],
	"forwardPorts":[{"host":{"port":1},"guest":{"port":1}}],
	"volumes":[{"image":"a.img","autoCreate":false,"mkfsExtraArgs":["-q"]}],
	"shares":[{"tag":"t","source":"/s","proto":"virtiofs","extraArgs":["-x"]}],
	"devices":[{"bus":"pci","path":"0000:01:00.0","qemu":{}}],
	"binScripts":{"x":"true"},"kernelParams":["quiet"],"credentialFiles":{"x":"/x"},
	"vsock":{},"graphics":{"enable":true},"virtiofsd":{"extraArgs":["-x"]},
	"qemu":{"machineOpts":{"x":"on"},"extraArgs":["-x"],"pcieRootPorts":[{"id":"p"}]},
	"cloud-hypervisor":{"platformOEMStrings":["x"],"extraArgs":["-x"]},"firecracker":{"extraArgs":["-x"]},"crosvm":{"extraArgs":["-x"]},
	"kvmtool":{},"stratovirt":{},"alioth":{}}`

// elementOf is the index of the list element above that has the option.
var elementOf = map[string]int{"interfaces[].bridge": 1, "interfaces[].macvtap.link": 2, "interfaces[].macvtap.mode": 2}

// with is everyOption with value at path.
func with(t *testing.T, path string, value any) []byte {
	t.Helper()
	var root any
	if err := json.Unmarshal([]byte(everyOption), &root); err != nil {
		t.Fatal(err)
	}
	node, at := root, elementOf[path]
	parts := strings.Split(path, ".")
	for i, part := range parts {
		name, list := strings.CutSuffix(part, "[]")
		object, ok := node.(map[string]any)
		if !ok {
			t.Fatalf("%s is in no object of everyOption", path)
		}
		if name == "*" {
			name = "x"
		}
		last := i == len(parts)-1
		switch {
		case last && list:
			object[name] = []any{value}
		case last:
			object[name] = value
		case list:
			elements, ok := object[name].([]any)
			if !ok {
				t.Fatalf("everyOption has no %s", name)
			}
			node = elements[at]
		default:
			if object[name] == nil {
				object[name] = map[string]any{}
			}
			node = object[name]
		}
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNoZeroIsTakenForAnAbsentField sets each option that is a string or a number to its
// zero: it is refused, at the option's own path, or listed in zeroMeansSomething.
func TestNoZeroIsTakenForAnAbsentField(t *testing.T) {
	if _, err := Parse([]byte(everyOption)); err != nil {
		t.Fatal(err)
	}
	all := scalars("", reflect.TypeFor[Spec]())
	if len(all) < 80 {
		t.Fatalf("found only %d options", len(all))
	}
	used := map[string]bool{}
	for _, s := range all {
		key := s.path
		if zeroMeansSomething[key] == "" {
			key += " " + s.zero
		}
		_, err := Parse(with(t, s.path, json.RawMessage(s.zero)))
		if zeroMeansSomething[key] != "" {
			used[key] = true
			if err != nil {
				t.Errorf("%s: %s is refused, and means: %s\n%v", s.path, s.zero, zeroMeansSomething[key], err)
			}
			continue
		}
		faults, _ := err.(Faults) // what Parse returns
		if !slices.ContainsFunc(faults, func(f Fault) bool { return place(f.Path) == s.path }) {
			t.Errorf("%s: %s is treated as an absent field (%v)", s.path, s.zero, err)
		}
	}
	for key := range zeroMeansSomething {
		if !used[key] {
			t.Errorf("%s is not an option", key)
		}
	}
}

// TestWhatIsEmptyIsWrittenAsItWasRead: an empty list or object may mean something else than
// an absent one, as in qemu.machineOpts.
func TestWhatIsEmptyIsWrittenAsItWasRead(t *testing.T) {
	for path, empty := range map[string]string{
		"kernelParams": `[]`, "interfaces": `[]`, "volumes": `[]`, "qemu.machineOpts": `{}`, "firecracker.cpu": `{}`, "binScripts": `{}`, "credentialFiles": `{}`,
	} {
		for _, value := range []string{empty, ""} {
			document := fmt.Sprintf(`{"name":"web","kernel":"/k"%s}`, member(path, value))
			first, err := Parse([]byte(document))
			if err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			text, err := json.Marshal(first)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, again); diff != "" {
				t.Errorf("%s was changed by writing and reading:\n%s", document, diff)
			}
		}
	}
}

// member is a member of a document's object, or none where value is empty.
func member(path, value string) string {
	if value == "" {
		return ""
	}
	outer, inner, nested := strings.Cut(path, ".")
	if nested {
		return fmt.Sprintf(`,%q:{%q:%s}`, outer, inner, value)
	}
	return fmt.Sprintf(`,%q:%s`, path, value)
}

// TestWhatNoHostCanStartIsRefused, each at its path; and what differs from it
// little is not.
func TestWhatNoHostCanStartIsRefused(t *testing.T) {
	tap := func(id string) string {
		return `"interfaces":[{"type":"tap","id":"` + id + `","mac":"02:00:00:00:00:01"}]`
	}
	for name, c := range map[string]struct{ members, path string }{
		"a tap that is called all":            {tap("all"), "interfaces[0].id"},
		"a tap that is called default":        {tap("default"), "interfaces[0].id"},
		"a tap that is called lo":             {tap("lo"), "interfaces[0].id"},
		"a tap that is called alls":           {tap("alls"), ""},
		"a user network that is called all":   {`"interfaces":[{"type":"user","id":"all","mac":"02:00:00:00:00:01"}]`, ""},
		"a bridge that is called default":     {`"interfaces":[{"type":"bridge","id":"b","bridge":"default","mac":"02:00:00:00:00:01"}]`, "interfaces[0].bridge"},
		"a macvtap on all":                    {`"interfaces":[{"type":"macvtap","id":"m","macvtap":{"link":"all","mode":"bridge"},"mac":"02:00:00:00:00:01"}]`, "interfaces[0].macvtap.link"},
		"a credential that is called ..":      {`"credentialFiles":{"..":"/x"}`, "credentialFiles..."},
		"one socket for two":                  {`"socket":"a.sock","shares":[{"tag":"t","source":"/s","proto":"virtiofs","socket":"a.sock"}]`, "shares[0].socket"},
		"the display's socket for two":        {`"graphics":{"enable":true,"socket":"web.sock"}`, "graphics.socket"},
		"a display's socket that is not used": {`"graphics":{"socket":"web.sock"}`, ""},
		"one image by two paths":              {`"volumes":[{"image":"a.img","size":1},{"image":"/var/lib/microvms/web/./a.img","size":1}]`, "volumes[1].image"},
		"an image of another VM's":            {`"volumes":[{"image":"a.img","size":1},{"image":"/var/lib/microvms/web2/a.img","size":1}]`, ""},
		"a label that FAT has not":            {`"volumes":[{"image":"a.img","size":64,"fsType":"vfat","label":"a.b"}]`, "volumes[0].label"},
		"a label with a blank":                {`"volumes":[{"image":"a.img","size":64,"fsType":"vfat","label":"a b"}]`, ""},
		"a NUL byte":                          {`"preStart":"echo \u0000"`, "preStart"},
		"the store with a slash":              {`"storeDisk":"/s","shares":[{"tag":"t","source":"/nix//store/"}]`, ""},
	} {
		s, err := Parse([]byte(`{"name":"web","kernel":"/k",` + c.members + `}`))
		if c.path == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if name == "the store with a slash" && *s.StoreOnDisk {
				t.Errorf("%s: the store is on a disk as well", name)
			}
			continue
		}
		faults, _ := err.(Faults) // what Parse returns
		if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Path == c.path }) {
			t.Errorf("%s: nothing about %s in %v", name, c.path, err)
		}
	}
}

// TestWhatStartsWithoutAPartOfItIsWarnedOf, with the remedy.
func TestWhatStartsWithoutAPartOfItIsWarnedOf(t *testing.T) {
	volume := func(image, mountPoint string) string {
		return `{"image":"` + image + `","size":1,"mountPoint":"` + mountPoint + `"}`
	}
	share := `"shares":[{"tag":"t","source":"/s","mountPoint":"/data//"}]`
	for name, c := range map[string]struct{ vm, members, want string }{
		"two volumes at one place":     {"web", `"volumes":[` + volume("a", "/data") + "," + volume("b", "/data/") + `]`, "volumes[1].mountPoint: /data is already the mount point of volumes[0].mountPoint"},
		"a volume and a share":         {"web", `"volumes":[` + volume("a", "/data/.") + `],` + share, "shares[0].mountPoint: /data is"},
		"two places":                   {"web", `"volumes":[` + volume("a", "/data2") + `],` + share, ""},
		"a name that machined refuses": {"web_1", `"registerWithMachined":true`, "registerWithMachined: "},
		"one with a colon":             {"a:b", `"registerWithMachined":true`, "registerWithMachined: "},
		"one that ends in a dash":      {"a-", `"registerWithMachined":true`, "registerWithMachined: "},
		"one with two dots":            {"a..b", `"registerWithMachined":true`, "registerWithMachined: "},
		"one that machined takes":      {"a-1.b", `"registerWithMachined":true`, ""},
		"one that it never hears of":   {"web_1", `"registerWithMachined":false`, ""},
	} {
		s, err := Parse([]byte(`{"name":"` + c.vm + `","kernel":"/k",` + c.members + `}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := strings.Join(s.Warnings(), "\n")
		if (got != "") != (c.want != "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: warned of %q, want %q", name, got, c.want)
		}
	}
}
