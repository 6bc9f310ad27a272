package statedir

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/test/need"
)

func TestMountsAreWantedForEverythingThatTheVMUses(t *testing.T) {
	v := VM{Host: Host{StateDir: "/var/lib/microvms", SystemdVersion: func() int { return 257 }}, Name: "web"}
	plan := &hypervisor.Plan{
		Argv:        []string{"/opt/qemu/bin/qemu"},
		Files:       []hypervisor.File{{Role: "kernel", Path: "/srv/boot/vmlinuz"}, {Role: "storeDisk", Path: "/nix/store/a/disk"}},
		Volumes:     []hypervisor.Volume{{Image: "data.img"}, {Image: "big/data.img"}, {Image: "/srv/img//web.img"}, {Image: "/dev/vg/web"}},
		NinePShares: []hypervisor.NinePShare{{Tag: "a", Source: "/srv/100% \"a\"'b'\\c"}},
		Shares:      []hypervisor.Share{{Tag: "b", Source: "/srv/home", Virtiofsd: "/opt/virtiofsd"}, {Tag: "c", Source: "inside"}},
	}
	vm, shares := v.mountDropIns(plan)
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

// settings are the lines of a drop-in that say something.
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
		got := settings(mountDropIn(version, []string{"/srv/a b/x%y", "/srv/c"}))
		want := []string{
			`Wants=srv.mount`, `After=srv.mount`, `Wants=srv-a\x20b.mount`, `After=srv-a\x20b.mount`,
			`Wants=srv-a\x20b-x\x25y.mount`, `After=srv-a\x20b-x\x25y.mount`, `Wants=srv-c.mount`, `After=srv-c.mount`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("version %d: %q, want %q", version, got, want)
		}
	}
	// The directory that holds the VM may be a mount, too, and until 256 its unit
	// is not ordered after that.
	v := VM{Host: Host{StateDir: "/var/lib/microvms"}, Name: "web"}
	vm, _ := v.mountDropIns(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: "data.img"}}})
	if !slices.Contains(settings(vm), "After=var-lib-microvms.mount") {
		t.Errorf("the VM's directory is not waited for:\n%s", vm)
	}
}

func TestPathsThatNoUnitFileCanHold(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/new\nline/x": `WantsMountsFor="/srv"`, "/srv/bad\xffname": `WantsMountsFor="/srv"`, "/\x01": "", "/": "",
	} {
		if got := strings.Join(settings(mountDropIn(257, []string{path})), " "); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	long := "/" + strings.Repeat(strings.Repeat("x", 200)+"/", 3) + "y"
	if got := mountUnits(long); len(got) != 1 {
		t.Errorf("names that systemd does not take: %q", got)
	}
}

func TestLinksAreFollowedToTheirMounts(t *testing.T) {
	need.Root(t)
	dir, err := os.MkdirTemp("/var/lib", "microvm-test-") // /tmp is everybody's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as such directories are
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", filepath.Join(dir, "link")), //nolint:gosec // as such directories are
		os.Symlink(filepath.Join(dir, "link"), filepath.Join(dir, "more")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Mkdir(open, 0o777), os.Chmod(open, 0o777), os.Symlink(dir, filepath.Join(open, "theirs")), //nolint:gosec // that is the point
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"more/x.img": "disk/x.img", "link": "disk", "more/../y": "y", "none/x": "none/x", "loop/x": "loop/x", "open/theirs/disk": "open/theirs/disk",
	} {
		if got := behindLinks(filepath.Join(dir)+"/"+path, nil); got != filepath.Join(dir, want) {
			t.Errorf("%s leads to %s, want %s", path, got, want)
		}
	}
	if got := behindLinks(dir+"/more/x.img", map[string]bool{dir: true}); got != dir+"/more/x.img" {
		t.Errorf("behind a server's mount: %s", got)
	}
}

func TestMountDropInsComeAndGoWithThePlan(t *testing.T) {
	v := VM{Host: Host{StateDir: "/var/lib/microvms", UnitDir: t.TempDir(), SystemdVersion: func() int { return 257 }}, Name: "web"}
	plan := &hypervisor.Plan{
		Files:  []hypervisor.File{{Role: "kernel", Path: "/srv/vmlinuz"}},
		Shares: []hypervisor.Share{{Tag: "b", Source: "/srv/home"}},
	}
	files := []string{"microvm@web.service.d/50-mounts.conf", "microvm-virtiofsd@web.service.d/50-mounts.conf"}
	for _, want := range []bool{true, false} {
		changed, err := v.linkDropIns(plan)
		if err != nil || !changed {
			t.Fatalf("changed %v: %v", changed, err)
		}
		if changed, err = v.linkDropIns(plan); err != nil || changed {
			t.Errorf("again: changed %v: %v", changed, err)
		}
		for _, file := range files {
			if _, err := os.Stat(filepath.Join(v.Host.UnitDir, file)); (err == nil) != want {
				t.Errorf("%s: %v", file, err)
			}
		}
		plan = &hypervisor.Plan{}
	}
}
