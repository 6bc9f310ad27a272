package unit

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with a file in testdata, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%s (%v) differs; run: go test ./internal/unit -update && git diff\n%s", file, err, got)
	}
}

// everything is a plan with something for each drop-in.
func everything() *hypervisor.Plan {
	return &hypervisor.Plan{
		Arch: "x86_64", Argv: []string{"/opt/qemu/bin/qemu-system-x86_64"},
		Files:      []hypervisor.File{{Role: "kernel", Path: "/srv/boot/vmlinuz"}, {Role: "initrd", Path: "/var/lib/microvms/kernels/initrd"}},
		Volumes:    []hypervisor.Volume{{Image: "data.img"}, {Image: "/var/lib/microvms/images/web.img"}, {Image: "/dev/vg/web"}},
		Interfaces: []hypervisor.Interface{{Type: "bridge"}},
		Taps:       []hypervisor.Tap{{ID: "vm-a"}}, Macvtaps: []hypervisor.Macvtap{{ID: "vm-b"}}, PCI: []hypervisor.PCI{{Address: "0000:01:00.0"}},
		Shares:      []hypervisor.Share{{Tag: "home", Source: "/srv/home"}},
		NinePShares: []hypervisor.NinePShare{{Tag: "etc", Source: "/var/lib/microvms/shared"}},
		Bridge:      true, Namespaces: true, Machined: &hypervisor.Machined{},
	}
}

func TestNamesAreReadAsTheyAreWritten(t *testing.T) {
	// A flake's attribute may have a name like the second one.
	for _, vm := range []string{"web", "fl.ake", "a-b@c"} {
		for _, want := range Templates() {
			got, name, ok := Parse(want.Of(vm))
			if !ok || !got.Is(want) || name != vm {
				t.Errorf("%s is %s of %q, %v", want.Of(vm), got.Name, name, ok)
			}
			if main, ok := VMOf(want.Of(vm)); ok != want.Is(Main) || ok && main != vm {
				t.Errorf("%s runs the hypervisor of %q: %v", want.Of(vm), main, ok)
			}
		}
		if got, ok := VMOfProcess(Process(vm)); !ok || got != vm {
			t.Errorf("process %q is of VM %q, %v", Process(vm), got, ok)
		}
		if got := Short(VM(vm)); got != "microvm@"+vm {
			t.Errorf("%s is %s for short", VM(vm), got)
		}
	}
	for _, name := range []string{"", "microvm", "microvm.service", "microvm@.service", "microvm@.slice", "microvm@web", "microvm@web.socket", "other@web.service", "install-microvm-web.service", "microvms.target"} {
		if got, vm, ok := Parse(name); ok {
			t.Errorf("%q is %s of %q", name, got.Name, vm)
		}
		if vm, ok := VMOf(name); ok {
			t.Errorf("%q runs the hypervisor of %q", name, vm)
		}
	}
	if _, ok := VMOfProcess("qemu-system-x86_64"); ok {
		t.Error("any process is a VM's")
	}
}

func TestTheUnitsOfAVM(t *testing.T) {
	want := []string{
		"install-microvm-web.service", "microvm-set-booted@web.service", "microvm-tap-interfaces@web.service", "microvm-macvtap-interfaces@web.service",
		"microvm-pci-devices@web.service", "microvm-virtiofsd@web.service", "microvm@web.service", "microvm-machined@web.service",
	}
	if got := All("web"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for pattern, match := range map[string]func(string) bool{
		EveryVM:          func(u string) bool { return u == VM("web") },
		Every:            func(u string) bool { return u != Install("web") },
		EveryOf("web"):   func(u string) bool { return u != Install("web") },
		EveryOf("we"):    func(string) bool { return false },
		HelpersOf("web"): func(u string) bool { return u != Install("web") && u != VM("web") },
	} {
		for _, u := range append(All("web"), Target, "microvm-run-wrapper-renew-web.service") {
			got, err := filepath.Match(pattern, u) // as fnmatch(3) has it, without slashes
			if err != nil || got != (match(u) && strings.Contains(u, "@")) {
				t.Errorf("%s matches %s: %v", pattern, u, got)
			}
		}
	}
	if got := Apart("microvm-run-wrapper", "renew", "web"); got != "microvm-run-wrapper-renew-web.service" {
		t.Error(got)
	}
	if RequiresDir("web") != "microvm@web.service.requires" || !OwnRequire("microvm-tap-interfaces@web.service") || OwnRequire("own.service") {
		t.Error("the links of earlier versions are not told from those of others")
	}
}

func TestAPlanNeedsTheHelpersThatHaveSomethingToDo(t *testing.T) {
	for name, c := range map[string]struct {
		plan *hypervisor.Plan
		want []Template
	}{
		"none":       {&hypervisor.Plan{}, nil},
		"a tap":      {&hypervisor.Plan{Taps: make([]hypervisor.Tap, 1)}, []Template{Taps}},
		"a macvtap":  {&hypervisor.Plan{Macvtaps: make([]hypervisor.Macvtap, 1)}, []Template{Macvtaps}},
		"a device":   {&hypervisor.Plan{PCI: make([]hypervisor.PCI, 1)}, []Template{PCI}},
		"a share":    {&hypervisor.Plan{Shares: make([]hypervisor.Share, 1)}, []Template{Virtiofsd}},
		"9p":         {&hypervisor.Plan{NinePShares: make([]hypervisor.NinePShare, 1)}, nil},
		"registered": {&hypervisor.Plan{Machined: &hypervisor.Machined{}}, []Template{Machined}},
		"everything": {everything(), []Template{Taps, Macvtaps, PCI, Virtiofsd, Machined}},
	} {
		got := Helpers(c.plan)
		if !slices.EqualFunc(got, c.want, Template.Is) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if !Main.Needs(c.plan) || SetBooted.Needs(c.plan) != (len(c.want) > 0) {
			t.Errorf("%s: the VM's own unit is needed: %v, what pins: %v", name, Main.Needs(c.plan), SetBooted.Needs(c.plan))
		}
	}
}

const root = "../.."

// TestTheTableIsThatOfTheUnits: each template is a file of systemd/, runs the program
// that the table says, and each file is in the table.
func TestTheTableIsThatOfTheUnits(t *testing.T) {
	files, err := filepath.Glob(root + "/systemd/*@.service")
	if err != nil || len(files) != len(Templates()) {
		t.Errorf("%d files of units and %d templates: %v", len(files), len(Templates()), err)
	}
	for _, u := range Templates() {
		text, err := os.ReadFile(root + "/systemd/" + u.Name + "@.service")
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.Contains(string(text), "@LIBEXECDIR@/"+u.Program+" ") {
			t.Errorf("%s does not run %s", u.Name, u.Program)
		}
		if _, err := os.Stat(root + "/cmd/" + u.Program); err != nil {
			t.Error(err)
		}
		if u.Lasting != (u.Record != "") || u.Lasting && u.Program != "microvm-"+u.Record || u.Lasting != (u.Option != nil) {
			t.Errorf("%s lasts: %v, with record %q and option %v", u.Name, u.Lasting, u.Record, u.Option)
		}
	}
	for _, u := range Templates() {
		if got, ok := ByRecord(u.Record); ok != u.Lasting || ok && !got.Is(u) {
			t.Errorf("record %q is that of %s, %v", u.Record, got.Name, ok)
		}
	}
	if got, ok := ByRecord("adopted"); ok {
		t.Errorf("a record of no helper's is that of %s", got.Name)
	}
	if _, err := os.Stat(root + "/systemd/" + Target); err != nil {
		t.Error(err)
	}
}

// TestTheNixModulesReadThisTable: units.json is this table.
func TestTheNixModulesReadThisTable(t *testing.T) {
	type entry struct {
		Name    string  `json:"name"`
		Option  *Option `json:"option"`
		Lasting bool    `json:"lasting"`
	}
	table := struct {
		Comment   string  `json:"_"`
		Main      string  `json:"main"`
		Machined  string  `json:"machined"`
		Target    string  `json:"target"`
		Templates []entry `json:"templates"`
	}{Comment: "Generated from unit.go: go generate ./internal/unit", Main: Main.Name, Machined: Machined.Name, Target: Target}
	for _, u := range Templates() {
		table.Templates = append(table.Templates, entry{u.Name, u.Option, u.Lasting})
	}
	text, err := json.MarshalIndent(table, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "units.json", string(text)+"\n")
}
