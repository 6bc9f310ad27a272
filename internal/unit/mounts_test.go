package unit

import (
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

func TestMountsAreWantedForEverythingThatTheVMUses(t *testing.T) {
	facts := Facts{VM: "web", StateDir: "/var/lib/microvms", Systemd: 257}
	plan := &hypervisor.Plan{
		Argv:        []string{"/opt/qemu/bin/qemu"},
		Files:       []hypervisor.File{{Role: "kernel", Path: "/srv/boot/vmlinuz"}, {Role: "storeDisk", Path: "/nix/store/a/disk"}},
		Volumes:     []hypervisor.Volume{{Image: "data.img"}, {Image: "big/data.img"}, {Image: "/srv/img//web.img"}, {Image: "/dev/vg/web"}},
		NinePShares: []hypervisor.NinePShare{{Tag: "a", Source: "/srv/100% \"a\"'b'\\c"}},
		Shares:      []hypervisor.Share{{Tag: "b", Source: "/srv/home", Virtiofsd: "/opt/virtiofsd"}, {Tag: "c", Source: "inside"}},
	}
	vm, shares := mountsText(facts, filesOf(plan)), mountsText(facts, sharesOf(plan))
	want := []string{
		`WantsMountsFor="/nix/store"`, `WantsMountsFor="/opt/qemu/bin/qemu"`, `WantsMountsFor="/srv/100%% "'"'"a"'"'"'b'\c"`,
		`WantsMountsFor="/srv/boot/vmlinuz"`, `WantsMountsFor="/srv/img/web.img"`, `WantsMountsFor="/var/lib/microvms/web/big/data.img"`,
	}
	if got := settings(vm); !slices.Equal(got, want) {
		t.Errorf("the VM's unit has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := settings(shares), []string{`WantsMountsFor="/opt/virtiofsd"`, `WantsMountsFor="/srv/home"`}; !slices.Equal(got, want) {
		t.Errorf("the shares' unit has %q, want %q", got, want)
	}
	for _, text := range []string{vm, shares} {
		if strings.Contains(text, "Requires") || strings.Contains(text, "remote-fs") {
			t.Errorf("something is required, or all remote file systems are waited for:\n%s", text)
		}
	}
}

// settings returns the settings of a drop-in.
func settings(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != '[' {
			out = append(out, line)
		}
	}
	return out
}

func TestAnOlderSystemdIsGivenTheMountUnits(t *testing.T) {
	for _, version := range []int{0, 254, 255} {
		got := settings(mountsOf(version, []string{"/srv/a b/x%y", "/srv/c"}))
		want := []string{
			`Wants=srv.mount`, `After=srv.mount`, `Wants=srv-a\x20b.mount`, `After=srv-a\x20b.mount`,
			`Wants=srv-a\x20b-x\x25y.mount`, `After=srv-a\x20b-x\x25y.mount`, `Wants=srv-c.mount`, `After=srv-c.mount`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("version %d: %q, want %q", version, got, want)
		}
	}
	// The VM's directory may be a mount point, too. Before version 256, systemd does not
	// order the unit after that mount.
	facts := Facts{VM: "web", StateDir: "/var/lib/microvms"}
	vm := mountsText(facts, filesOf(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: "data.img"}}}))
	if !slices.Contains(settings(vm), "After=var-lib-microvms.mount") {
		t.Errorf("the VM's directory is not waited for:\n%s", vm)
	}
}

func TestPathsThatNoUnitFileCanHold(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/new\nline/x": `WantsMountsFor="/srv"`, "/srv/bad\xffname": `WantsMountsFor="/srv"`, "/\x01": "", "/": "",
	} {
		if got := strings.Join(settings(mountsOf(257, []string{path})), " "); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	long := "/" + strings.Repeat(strings.Repeat("x", 200)+"/", 3) + "y"
	if got := mountUnits(long); len(got) != 1 {
		t.Errorf("names that systemd does not take: %q", got)
	}
}
