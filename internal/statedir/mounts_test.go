package statedir

import (
	"os"
	"path/filepath"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/test/need"
)

func TestLinksAreFollowedToTheirMounts(t *testing.T) {
	need.Root(t)
	dir, err := os.MkdirTemp("/var/lib", "microvm-test-") // /tmp is everybody's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(dir, "link"), filepath.Join(dir, "more")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Mkdir(open, 0o777), os.Chmod(open, 0o777), os.Symlink(dir, filepath.Join(open, "theirs")),
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
		changed, err := v.linkUnits(plan)
		if err != nil || !changed {
			t.Fatalf("changed %v: %v", changed, err)
		}
		if changed, err = v.linkUnits(plan); err != nil || changed {
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
