package unit

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

// facts are those of an ordinary host.
func facts() Facts {
	return Facts{
		VM: "web", StateDir: "/var/lib/microvms", Reserved: []string{".store", ".origin", ".lock"},
		RuntimeDir: "/run/microvm/web", LibexecDir: "/usr/lib/microvm", Systemd: 257,
	}
}

func jailed(arch string) *hypervisor.Plan {
	return &hypervisor.Plan{Arch: arch, Argv: []string{"/usr/bin/firecracker"}, Jail: &hypervisor.Jail{
		ReadOnly: []string{"/srv/boot/vmlinux", "/dev/null"}, Writable: []string{"/srv/images/web.img", "/dev/vg/web", "/var/lib/microvms/web/own.img"},
	}}
}

func TestDropIns(t *testing.T) {
	old, elsewhere, linked := facts(), facts(), facts()
	old.Systemd = 252
	elsewhere.LibexecDir, elsewhere.StateDir = "/opt/microvm/libexec", "/srv/vms"
	linked.Behind = func(path string) string { return strings.Replace(path, "/srv/", "/var/lib/microvms/real/", 1) }
	linked.BehindLocal = func(path string) string { return strings.Replace(path, "/srv/", "/mnt/disk/", 1) }
	running := facts()
	running.Booted = &hypervisor.Plan{Taps: []hypervisor.Tap{{ID: "vm-a"}}, PCI: []hypervisor.PCI{{Address: "0000:01:00.0"}}}
	for name, c := range map[string]struct {
		plan  *hypervisor.Plan
		facts Facts
	}{
		"nothing":                 {&hypervisor.Plan{}, facts()},
		"everything":              {everything(), facts()},
		"everything-old-systemd":  {everything(), old},
		"everything-behind-links": {everything(), linked},
		"registered-only":         {&hypervisor.Plan{Machined: &hypervisor.Machined{}}, facts()},
		"needed-by-what-runs":     {&hypervisor.Plan{Macvtaps: []hypervisor.Macvtap{{ID: "vm-b"}}, PCI: []hypervisor.PCI{{Address: "0000:02:00.0"}}}, running},
		"jailed-x86_64":           {jailed("x86_64"), facts()},
		"jailed-aarch64":          {jailed("aarch64"), facts()},
		"jailed-elsewhere":        {jailed("x86_64"), elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := DropIns(c.plan, c.facts)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, path := range slices.Sorted(maps.Keys(all)) {
				if all[path] != "" {
					b.WriteString("==> " + path + " <==\n" + all[path] + "\n")
				}
			}
			golden(t, filepath.Join("testdata", name+".txt"), b.String())
			if again, _ := DropIns(c.plan, c.facts); !maps.Equal(all, again) {
				t.Error("the same facts give other drop-ins")
			}
			none, err := DropIns(&hypervisor.Plan{}, facts())
			if got, want := slices.Sorted(maps.Keys(all)), slices.Sorted(maps.Keys(none)); err != nil || !slices.Equal(got, want) {
				t.Errorf("paths %q, without a plan %q (%v): what a plan no longer has would stay", got, want, err)
			}
		})
	}
}

// TestEachDropInIsWholeAndSaysWhoMadeIt: systemd warns of a line that is in no
// section, and ignores it.
func TestEachDropInIsWholeAndSaysWhoMadeIt(t *testing.T) {
	for _, plan := range []*hypervisor.Plan{everything(), jailed("x86_64")} {
		all, err := DropIns(plan, facts())
		if err != nil {
			t.Fatal(err)
		}
		for path, text := range all {
			if text == "" {
				continue
			}
			if !strings.HasPrefix(text, "# Made by install-microvm") || !strings.HasSuffix(text, "\n") {
				t.Errorf("%s:\n%s", path, text)
			}
			section := ""
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				switch {
				case line == "" || line[0] == '#':
				case line[0] == '[':
					section = line
				case section == "" || !strings.Contains(line, "="):
					t.Errorf("%s: %q is not a setting of a section", path, line)
				}
			}
		}
	}
}

func TestTheMountsOfAJailComeAfterNixOS(t *testing.T) {
	// The order of drop-ins is that of their names, whichever directory they are
	// in, systemd.unit(5); NixOS's overrides.conf empties the lists of mounts.
	if jailRootName <= "overrides.conf" || jailName >= "override.conf" {
		t.Errorf("%s, override.conf, overrides.conf, %s are not in order", jailName, jailRootName)
	}
}

func TestAJailIsRefusedWhatNobodyMayFollow(t *testing.T) {
	theirs := errors.New("others than root can write to directory /srv")
	with := facts()
	with.JailFile = func(path string) error {
		if strings.HasPrefix(path, "/srv/") {
			return theirs
		}
		return nil
	}
	libexec := facts()
	libexec.LibexecDir = "/opt/a b"
	for name, c := range map[string]struct {
		plan  *hypervisor.Plan
		facts Facts
		want  string
	}{
		"a file of somebody else":           {jailed("x86_64"), with, "a jailed VM cannot have /srv/boot/vmlinux: others than root can write"},
		"a path that no unit file can hold": {&hypervisor.Plan{Jail: &hypervisor.Jail{Writable: []string{"/x:y"}}}, facts(), "a jailed VM cannot have /x:y: "},
		"programs in such a directory":      {jailed("x86_64"), libexec, "the programs' directory: "},
	} {
		all, err := DropIns(c.plan, c.facts)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || all != nil {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// What is in the VM's directory is there already, and nobody follows it.
	with.JailFile = func(path string) error { return errors.New(path) }
	if _, err := DropIns(&hypervisor.Plan{Jail: &hypervisor.Jail{Writable: []string{"/var/lib/microvms/web/own.img"}}}, with); err != nil {
		t.Error(err)
	}
}

func TestAVMSeesWhatItUsesElsewhereInTheStateDirectory(t *testing.T) {
	plan := &hypervisor.Plan{
		Volumes: []hypervisor.Volume{
			{Image: "own.img"}, {Image: "/var/lib/microvms/web/sub/own.img"}, {Image: "/var/lib/microvms/images//web.img"}, {Image: "../images/db.img"},
			{Image: "/var/lib/microvms/flat.img"}, {Image: "/srv/far.img"}, {Image: "/var/lib/microvms/.store/x/y.img"}, {Image: ""},
		},
		NinePShares: []hypervisor.NinePShare{{Source: "/var/lib/microvms/a\nb"}, {Source: "/var/lib/microvms"}, {Source: "d"}},
		Files:       []hypervisor.File{{Path: "/var/lib/microvms/kernels/vmlinuz"}},
	}
	got := settings(viewText(plan, facts()))
	want := []string{
		"BindPaths=-/var/lib/microvms/images", "BindPaths=-/var/lib/microvms/flat.img", "BindReadOnlyPaths=-/var/lib/microvms/kernels/vmlinuz",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A link in the VM's directory could lead to any VM's disk.
	with := facts()
	with.Behind = func(string) string { return "/var/lib/microvms/images/other.img" }
	if got := viewText(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: "linked.img"}}}, with); got != "" {
		t.Errorf("a link leads to %q", got)
	}
	plan.Jail = &hypervisor.Jail{}
	if got := viewText(plan, facts()); got != "" {
		t.Errorf("a jail has a view of its own, and this: %s", got)
	}
}
