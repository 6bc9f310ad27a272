package runner

import (
	"embed"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files")

// The files are embedded, so that the compiled test runs on any host.
//
//go:embed testdata/*.json testdata/*.golden testdata/grammar/*.json
var testdata embed.FS

var testOptions = Options{LibexecDir: "/usr/lib/microvm", BinDir: "/usr/bin"}

// withQEMU returns a builder for a host with that version of QEMU, and current ones of the
// other hypervisors.
func withQEMU(major, minor int) *hypervisor.Builder {
	return withVersions(map[string][2]int{"cloud-hypervisor": {53, 0}, "firecracker": {1, 16}, "qemu-system-x86_64": {major, minor}, "qemu-system-aarch64": {major, minor}})
}

func withVersions(have map[string][2]int) *hypervisor.Builder {
	return &hypervisor.Builder{Version: func(program string) (int, int, error) {
		v, ok := have[filepath.Base(program)]
		if !ok {
			return 0, 0, fmt.Errorf("%s prints no version", program)
		}
		return v[0], v[1], nil
	}}
}

// specNames are the names of the specs in testdata.
func specNames(t testing.TB) []string {
	t.Helper()
	paths, err := fs.Glob(testdata, "testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(p), ".json")
	}
	return paths
}

func readSpec(t testing.TB, name string) *spec.Spec {
	t.Helper()
	data, err := testdata.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Parse(data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

func TestPackagesAreAsTheGoldenFiles(t *testing.T) {
	versions := []struct {
		suffix  string
		builder *hypervisor.Builder
		only    []string
	}{
		{"", withQEMU(10, 0), nil},
		{"-on-qemu-7.2", withQEMU(7, 2), []string{"minimal", "everything", "many-volumes", "minimal-on-aarch64"}},
		{"-on-35", withVersions(map[string][2]int{"cloud-hypervisor": {35, 0}}), []string{"cloud-hypervisor-everything"}},
		{"-on-1.12", withVersions(map[string][2]int{"firecracker": {1, 12}}), []string{"firecracker-everything"}},
		{"-on-2.4", withVersions(map[string][2]int{"stratovirt": {2, 4}}), []string{"stratovirt-everything", "stratovirt-on-aarch64"}},
		{"-of-unknown-version", &hypervisor.Builder{}, []string{"cloud-hypervisor-everything", "firecracker"}},
	}
	for _, v := range versions {
		names := v.only
		if names == nil {
			names = specNames(t)
		}
		for _, name := range names {
			t.Run(name+v.suffix, func(t *testing.T) {
				dst := filepath.Join(t.TempDir(), "package")
				if _, err := Build(v.builder, readSpec(t, name), dst, testOptions); err != nil {
					t.Fatal(err)
				}
				compareGolden(t, name+v.suffix, dump(t, dst))
			})
		}
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name + ".golden"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := testdata.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with: go test ./internal/runner -run Golden -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}

// dump returns a package as text: modes, names, contents and the targets of links.
func dump(t testing.TB, root string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintf(&out, "== %s -> %s\n", name, target)
			return err
		case info.IsDir():
			fmt.Fprintf(&out, "== %s %s\n", name, info.Mode())
			return nil
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&out, "== %s %s\n%s", name, info.Mode(), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTheSameSpecGivesTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range specNames(t) {
		var first string
		for i := range 5 {
			dst := filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
			if _, err := Build(withQEMU(10, 0), readSpec(t, name), dst, testOptions); err != nil {
				t.Fatal(err)
			}
			got := dump(t, dst)
			if i == 0 {
				first = got
			}
			if diff := cmp.Diff(first, got); diff != "" {
				t.Fatalf("%s: the packages differ:\n%s", name, diff)
			}
		}
	}
}

func TestEveryPackageIsReadBackAsItWasBuilt(t *testing.T) {
	dir := t.TempDir()
	for _, name := range specNames(t) {
		dst := filepath.Join(dir, name)
		built, err := Build(withQEMU(10, 0), readSpec(t, name), dst, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(built, readPlan(t, dst)); diff != "" {
			t.Errorf("%s (-built +read):\n%s", name, diff)
		}
	}
}

// TestTheTextFilesSayWhatThePlanSays reads each package again like a host that does not read
// runner.json.
func TestTheTextFilesSayWhatThePlanSays(t *testing.T) {
	dir := t.TempDir()
	for _, name := range specNames(t) {
		dst := filepath.Join(dir, name)
		built, err := Build(withQEMU(10, 0), readSpec(t, name), dst, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dst, planFile)); err != nil {
			t.Fatal(err)
		}
		read := readPlan(t, dst)
		if !read.Foreign {
			t.Fatalf("%s: a plan without runner.json is not marked as foreign", name)
		}
		want, got := textView(built), textView(read)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-plan +text files):\n%s", name, diff)
		}
	}
}

// textView returns the part of a plan that the text files contain.
func textView(p *hypervisor.Plan) map[string]any {
	var macvtaps, shares, pci []string
	for _, m := range p.Macvtaps {
		macvtaps = append(macvtaps, strings.Join([]string{m.ID, m.MAC, m.Link, m.Mode}, " "))
	}
	for _, s := range p.Shares {
		shares = append(shares, s.Tag+" "+s.Source+" "+s.Socket)
	}
	for _, d := range p.PCI {
		pci = append(pci, d.Address)
	}
	slices.Sort(shares)
	return map[string]any{
		"hypervisor": p.Hypervisor, "taps": p.Taps, "macvtaps": macvtaps, "shares": shares, "pci": pci, "usb": p.USB, "cid": p.VsockCID,
	}
}

func readPlan(t testing.TB, dir string) *hypervisor.Plan {
	t.Helper()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	plan, err := p.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
