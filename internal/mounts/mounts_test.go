package mounts

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
	"microvm/test/testutil"
)

// host makes a host with those files, by path, and mountinfo.
func host(t *testing.T, mountinfo string, files map[string]string) (Table, string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files["mountinfo"] = mountinfo
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return Table{Root: root, MountInfo: filepath.Join(root, "mountinfo")}, root
}

func TestWhatIsDeclaredAndNotMounted(t *testing.T) {
	data := t.TempDir()
	if real, err := filepath.EvalSymlinks(data); err != nil || real != data {
		t.Skip("the temporary directory is behind a link")
	}
	sub, spaced, link := filepath.Join(data, "vms/a"), filepath.Join(data, "a b"), filepath.Join(data, "link")
	for _, dir := range []string{sub, spaced} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(sub, link); err != nil {
		t.Fatal(err)
	}
	unit := "[Unit]\nDescription=x\n[Mount]\nWhat=/dev/x\nWhere=" + data + "/vms\n"
	mounted := "22 1 0:1 / " + data + "/vms rw shared:1 - ext4 /dev/x rw\n"
	for name, c := range map[string]struct {
		mountinfo string
		files     map[string]string
		dir       string
		missing   string
	}{
		"nothing":                     {"", map[string]string{}, sub, ""},
		"fstab":                       {"", map[string]string{"etc/fstab": "# a comment\nUUID=1 / ext4 defaults 0 1\nUUID=2 " + data + " ext4 noauto 0 2\n"}, sub, data},
		"fstab, mounted":              {mounted, map[string]string{"etc/fstab": "UUID=2 " + data + "/vms ext4 defaults 0 2\n"}, sub, ""},
		"fstab, mounted on demand":    {"22 1 0:1 / " + data + "/vms rw - autofs systemd-1 rw\n" + mounted, map[string]string{"etc/fstab": "UUID=2 " + data + "/vms ext4 x-systemd.automount 0 2\n"}, sub, ""},
		"fstab, to come on demand":    {"22 1 0:1 / " + data + "/vms rw - autofs systemd-1 rw\n", map[string]string{"etc/fstab": "UUID=2 " + data + "/vms ext4 x-systemd.automount 0 2\n"}, sub, data + "/vms"},
		"fstab, and a blank":          {"", map[string]string{"etc/fstab": "UUID=2 " + data + `/a\040b` + " ext4\n"}, spaced, spaced},
		"fstab, mounted with a blank": {"22 1 0:1 / " + data + `/a\040b rw - ext4 /dev/x rw` + "\n", map[string]string{"etc/fstab": "UUID=2 " + data + `/a\040b` + " ext4\n"}, spaced, ""},
		"fstab, and a link":           {"", map[string]string{"etc/fstab": "UUID=2 " + data + "/vms ext4\n"}, link, data + "/vms"},
		"a neighbour's":               {"", map[string]string{"etc/fstab": "UUID=2 " + data + "/vm ext4\nUUID=3 none swap sw 0 0\n"}, sub, ""},
		"a mount unit":                {"", map[string]string{"etc/systemd/system/x.mount": unit}, sub, data + "/vms"},
		"a mount unit, mounted":       {mounted, map[string]string{"etc/systemd/system/x.mount": unit}, sub, ""},
		"a masked mount unit":         {"", map[string]string{"etc/systemd/system/x.mount": "", "usr/lib/systemd/system/x.mount": unit, "usr/lib/systemd/system/y.target.wants/x.mount": ""}, sub, ""},
		"a vendor's":                  {"", map[string]string{"usr/lib/systemd/system/x.mount": unit}, sub, ""},
		"a vendor's that is wanted":   {"", map[string]string{"usr/lib/systemd/system/x.mount": unit, "etc/systemd/system/local-fs.target.wants/x.mount": ""}, sub, data + "/vms"},
		"what is not there yet":       {"", map[string]string{"run/systemd/generator/x.mount": unit}, data + "/vms/b/c", data + "/vms"},
		"a mount point that is not":   {"", map[string]string{"etc/fstab": "UUID=2 " + data + "/new ext4\n"}, data + "/new/a", data + "/new"},
		"a generated one":             {"", map[string]string{"run/systemd/generator/x.mount": unit}, sub, data + "/vms"},
	} {
		t.Run(name, func(t *testing.T) {
			table, _ := host(t, c.mountinfo, c.files)
			got, err := table.Missing(c.dir)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.missing == "" && got != nil:
				t.Errorf("%+v", *got)
			case c.missing != "" && (got == nil || got.Dir != c.missing):
				t.Errorf("%+v, want %s", got, c.missing)
			}
		})
	}
}

func TestWhatIsReallyMounted(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	table, _ := host(t, "", map[string]string{"etc/fstab": "tmpfs " + dir + " tmpfs\n"})
	table.MountInfo = Host.MountInfo
	if got, err := table.Missing(dir); err != nil || got == nil {
		t.Errorf("%v, %v", got, err)
	}
	mount(t, "tmpfs", dir, "tmpfs", "")
	if got, err := table.Missing(dir); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func mount(t *testing.T, what, where, kind, data string) {
	t.Helper()
	if err := unix.Mount(what, where, kind, 0, data); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(where, unix.MNT_DETACH) })
}

// TestFileSystemsAreToldApart: a file system that is mounted again is the same, a
// second one and the one below it differ. Loop devices and the types are those of a
// kernel of the test's own.
func TestFileSystemsAreToldApart(t *testing.T) {
	need.InHost(t, need.VM)
	need.Root(t)
	below, err := Of(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("below: %v, %+v", below, below)
	for _, kind := range []string{"ext4", "btrfs", "xfs", "vfat"} {
		t.Run(kind, func(t *testing.T) {
			a, again, b := mountImage(t, kind, "a"), mountImage(t, kind, "a"), mountImage(t, kind, "b")
			t.Logf("%v, %+v", a, a)
			if !a.Same(again) {
				t.Errorf("it differs when it is mounted again: %+v, %+v", a, again)
			}
			if a.Same(b) && (a.FSID != "" || a.UUID != "") {
				t.Errorf("two are the same: %+v, %+v", a, b)
			}
			if a.Same(below) {
				t.Errorf("it is the same as the file system below it: %+v, %+v", a, below)
			}
		})
	}
}

// mountImage mounts the image of that name, which is made the first time, looks at
// its file system, and unmounts it.
func mountImage(t *testing.T, kind, name string) FileSystem {
	t.Helper()
	mkfs, dir := need.Program(t, "mkfs."+kind), t.TempDir()
	path := filepath.Join(os.TempDir(), "microvm-test-"+kind+"-"+name)
	if _, err := os.Stat(path); err != nil {
		t.Cleanup(func() { _ = os.Remove(path) })
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 320<<20)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(mkfs, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command("mount", "-o", "loop", path, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount it: %v: %s", err, out)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	var fsys FileSystem
	testutil.Until(t, "udev knows the "+kind+" file system", func() bool {
		var err error
		if fsys, err = Of(dir); err != nil {
			t.Fatal(err)
		}
		return fsys.FSID != "" || fsys.UUID != ""
	})
	return fsys
}

func TestMemoryAndOverlaysAreKnownByTheirKind(t *testing.T) {
	need.Root(t)
	one, other, merged := t.TempDir(), t.TempDir(), t.TempDir()
	mount(t, "tmpfs", one, "tmpfs", "")
	mount(t, "tmpfs", other, "tmpfs", "")
	for _, dir := range []string{"upper", "work", "lower"} {
		if err := os.Mkdir(filepath.Join(one, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "overlay", merged, "overlay", "lowerdir="+one+"/lower,upperdir="+one+"/upper,workdir="+one+"/work")
	a, errA := Of(one)
	b, errB := Of(other)
	c, errC := Of(merged)
	if err := errors.Join(errA, errB, errC); err != nil {
		t.Fatal(err)
	}
	t.Logf("tmpfs %+v, overlay %+v", a, c)
	// A tmpfs does not survive a reboot, so any two are the same.
	if !a.Same(b) || a.Same(c) {
		t.Errorf("%+v, %+v, %+v", a, b, c)
	}
}

func FuzzFstab(f *testing.F) {
	f.Add("UUID=1 /a\\040b ext4 defaults 0 1\n")
	f.Add("\\")
	f.Fuzz(func(t *testing.T, text string) {
		table, _ := host(t, text, map[string]string{"etc/fstab": text, "etc/systemd/system/x.mount": text})
		_, _ = table.Missing(t.TempDir())
	})
}
