package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"microvm/internal/exit"
)

func TestTheDefaultsOfTheTableAreTaken(t *testing.T) {
	s := &Spec{
		Name: "x", Arch: "x86_64", Interfaces: []Interface{{}}, ForwardPorts: []ForwardPort{{}}, Volumes: []Volume{{}}, Shares: []Share{{}},
	}
	s.SetDefaults()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	for path, f := range fields {
		if f.value == nil {
			continue
		}
		got, want := valueAt(tree, path), f.value
		wanted, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		have, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		// What is false or 0 is left out of the document.
		if got == nil && (want == false || want == 0) {
			continue
		}
		if string(have) != string(wanted) {
			t.Errorf("default of %s: %s in the table, %s in the code", path, wanted, have)
		}
	}
}

func valueAt(tree any, path string) any {
	for _, name := range strings.Split(path, ".") {
		name, list := strings.CutSuffix(name, "[]")
		object, _ := tree.(map[string]any)
		tree = object[name]
		if items, ok := tree.([]any); list && ok && len(items) > 0 {
			tree = items[0]
		}
	}
	return tree
}

func TestAnEmptySpecGetsTheDocumentedDefaults(t *testing.T) {
	s, err := Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/k","shares":[{"tag":"a","source":"/a","proto":"virtiofs"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"hypervisor": {s.Hypervisor, "qemu"}, "vcpu": {s.VCPU, 1}, "mem": {s.Mem, 512},
		"socket": {*s.Socket.Value, "web.sock"}, "machine": {s.QEMU.Machine, "microvm"},
		"share socket": {*s.Shares[0].Socket.Value, "web-virtiofs-a.sock"}, "posixAcl": {*s.Shares[0].PosixACL, true},
		"group": {*s.Virtiofsd.Group.Value, "kvm"}, "threads": {s.Virtiofsd.ThreadPoolSize.NProc, true},
		// What microvm.nix derives for the same name.
		"machineId": {*s.MachineID.Value, DefaultMachineID("web")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
		}
	}
	arm, err := Parse([]byte(`{"name":"web","arch":"aarch64","kernel":"/k"}`))
	if err != nil {
		t.Fatal(err)
	}
	if arm.QEMU.Machine != "virt" {
		t.Errorf("on aarch64 the machine is %s", arm.QEMU.Machine)
	}
}

func TestNullIsNotTheSameAsAbsent(t *testing.T) {
	s, err := Parse([]byte(`{"name":"web","kernel":"/k","socket":null,"machineId":null,"virtiofsd":{"group":null,"inodeFileHandles":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Socket.Value != nil || s.MachineID.Value != nil || s.Virtiofsd.Group.Value != nil || s.Virtiofsd.InodeFileHandles.Value != nil {
		t.Errorf("null became a default: %+v", s)
	}
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	document := `{
	  "name": "web", "kernel": "/k", "vcpu": -1, "hypervisor": "qemo",
	  "interfaces": [
	    {"type": "tap", "id": "vm-averyverylongname", "mac": "03:00:00:00:00:01"},
	    {"type": "bridge", "id": "b", "mac": "02:00:00:00:00:01"},
	    {"type": "tap", "id": "b", "mac": "02:00:00:00:00:01", "bridge": "br0"},
	    {"type": "macvtap", "id": "m", "mac": "02:00:00:00:00:03", "macvtap": {"mode": "brigde"}}
	  ],
	  "volumes": [{"image": "../up.img", "size": 1}, {"image": "x.img"}, {"image": "y.img", "size": 1, "label": "seventeen-bytes-x"}],
	  "shares": [
	    {"tag": "a/b", "source": ""},
	    {"tag": "ok", "source": "/s", "proto": "virtiofs", "socket": "/run/x", "extraArgs": ["--translate-uid=map:0:0:1"]}
	  ],
	  "devices": [{"bus": "pci", "path": "01:00.0"}],
	  "forwardPorts": [{"host": {"port": 70000}, "guest": {"port": 1}}],
	  "vsock": {"cid": 2}, "machineId": "x", "credentialFiles": {"a b": "/c"},
	  "cloud-hypervisor": {"platformOEMStrings": ["oem_strings=[a]"]}
	}`
	_, err := Parse([]byte(document))
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("the error is %v", err)
	}
	golden(t, "faults", exit.Text(err)+"\n")
}

// TestFaultsOfFormAndOfContentAreReportedAtOnce: an option that is left out because of its
// form is not reported as missing.
func TestFaultsOfFormAndOfContentAreReportedAtOnce(t *testing.T) {
	_, err := Parse([]byte(`{"name": 5, "vcpus": 1, "vcpu": 0.5, "interfaces": {}, "kernel": "/k", "kernel": "/l", "mem": 1.5, "qemu": {"extraArgs": "a", "pcieRootPorts": [{"id": "a/b"}]},
		"balloon": null, "initialBalloonMem": 600, "virtiofsd": {"threadPoolSize": "many"}, "forwardPorts": [{"host": {"port": 1}, "guest": {"port": 0}}],
		"volumes": [{"image": "a.img", "size": "8"}, "b.img", {"image": "c.img", "size": 8, "labl": "c", "serial": "more than twenty bytes"}],
		"shares": [{"tag": "a/b", "source": "/a"}], "vsock": {"cid": 1}, "firecracker": {"cpu": {"a": [{"b": null}]}}}`))
	if err == nil {
		t.Fatal("accepted")
	}
	golden(t, "form", exit.Text(err)+"\n")
}

// TestEveryFaultHasItsHintDirectlyBelow, also where its text is the end of another's.
func TestEveryFaultHasItsHintDirectlyBelow(t *testing.T) {
	var faults Faults
	faults.Addf("graphics.socket", "is empty").Hintf("set one")
	faults.Addf("mem", "must be at least 1, not 0")
	faults.Add("name", errors.New("VM name is required"))
	faults.Add("name", nil)
	faults.Add("socket", withHint("is empty", "leave it out"))
	faults.AddUnknown("arch", "", []string{"x86_64", "aarch64"})
	const want = `spec.json:
graphics.socket: is empty
hint: set one
mem: must be at least 1, not 0
name: VM name is required
socket: is empty
hint: leave it out
arch: is required
hint: use one of x86_64, aarch64`
	if got := exit.Text(fmt.Errorf("spec.json:\n%w", faults.Err())); got != want {
		t.Errorf("%s\nwant:\n%s", got, want)
	}
	if got := exit.Text(exit.WithHint(faults[:1], "build it again")); got != "graphics.socket: is empty\nhint: set one\nhint: build it again" {
		t.Errorf("with a hint for all: %s", got)
	}
	if !exit.IsConfig(faults) {
		t.Error("a retry could help")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestTheExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples (%v)", err)
	}
	for _, f := range files {
		if _, err := ParseFile(f, ""); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// TestAPathThatLeavesItsDirectoryIsRefusedWithOneThatIsTaken: the path that the message
// suggests is valid.
func TestAPathThatLeavesItsDirectoryIsRefusedWithOneThatIsTaken(t *testing.T) {
	const without = `without "." and ".."`
	for path, want := range map[string]string{
		"../..": without, "..": without, "a/..": without, "../up": `such as "up"`, "a/../b": `such as "b"`, "./../x": `such as "x"`,
	} {
		for field, document := range map[string]string{
			"volumes[0].image": `{"name":"web","kernel":"/k","volumes":[{"image":"` + path + `","autoCreate":false}]}`,
			"shares[0].source": `{"name":"web","kernel":"/k","shares":[{"tag":"a","source":"` + path + `"}]}`,
		} {
			_, err := Parse([]byte(document))
			want := fmt.Sprintf("%s: invalid path %q: must be inside the state directory, %s, or absolute", field, path, want)
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		if err := ValidateInside(path); err == nil || !strings.HasSuffix(err.Error(), "inside the state directory, "+want) {
			t.Errorf("%s, which may not be absolute: %v", path, err)
		}
	}
	if err := ValidateInside("/"); err == nil || !strings.HasSuffix(err.Error(), without) {
		t.Errorf("the root directory: %v", err)
	}
}

// TestAnEmptyDocumentIsCalledSo, with a minimal document as a hint, which is valid.
func TestAnEmptyDocumentIsCalledSo(t *testing.T) {
	for _, document := range []string{"", " \n\t\n"} {
		_, err := Parse([]byte(document))
		if err == nil || !strings.Contains(err.Error(), "the document is empty") {
			t.Fatalf("%q: %v", document, err)
		}
		_, least, _ := strings.Cut(exit.Text(err), "\nhint: a minimal spec is ")
		if _, err := Parse([]byte(least)); err != nil {
			t.Errorf("the minimal document is refused: %v", err)
		}
	}
	if _, err := Parse([]byte(`{"name": "web"`)); err == nil || !strings.Contains(err.Error(), "unexpected end of the document") {
		t.Errorf("half a document: %v", err)
	}
}

func TestSizesOfADocumentAreBounded(t *testing.T) {
	for name, document := range map[string]string{
		"deep":  `{"name":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"large": `{"name":"` + strings.Repeat("x", maxDocument) + `"}`,
	} {
		if _, err := Parse([]byte(document)); err == nil {
			t.Errorf("a document that is too %s was accepted", name)
		}
	}
}

// FuzzParse: no input makes the parser panic, and what it accepts means the
// same after it was written and read again.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("../../examples/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"name":"x","kernel":"/k","socket":null,"virtiofsd":{"threadPoolSize":"4"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			var faults Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("the error %v is not a list of faults", err)
			}
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("not accepted after it was written: %v\n%s", err, text)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatalf("changed by writing and reading:\n%s", diff)
		}
	})
}
