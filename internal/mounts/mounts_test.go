package mounts

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

func TestMountinfoIsRead(t *testing.T) {
	got := parse("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" +
		`40 22 0:35 / /srv/my\040disk rw - nfs4 host:/x rw` + "\nnonsense\n")
	want := []Mount{{"/", "ext4"}, {"/srv/my disk", "nfs4"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	table, err := Table()
	if err != nil || !slices.ContainsFunc(table, func(m Mount) bool { return m.Point == "/" }) {
		t.Errorf("this process has no root: %v, %v", table, err)
	}
}

func TestWhatShouldBeMountedAndIsNotIsNamed(t *testing.T) {
	first, second, root := t.TempDir(), t.TempDir(), t.TempDir()
	dirs := []string{first, second}
	give := func(dir, point, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, unit.UnitNamePathEscape(point)+".mount"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	give(second, root+"/late disk", "[Mount]\n")
	give(second, "/proc", "[Mount]\n") // mounted
	give(second, root+"/masked", "[Mount]\n")
	if err := os.Symlink(os.DevNull, filepath.Join(first, unit.UnitNamePathEscape(root+"/masked")+".mount")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		root + "/late disk/a/b": root + "/late disk", root + "/late disk": root + "/late disk", root + "/late": "", "/proc/1": "",
		root + "/masked/x": "", "/": "", "relative": "",
	} {
		if got, err := absent(path, dirs); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
}
