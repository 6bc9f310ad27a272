package statedir

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const everything = `{"name":"web","arch":"x86_64","kernel":"/k","hypervisor":"crosvm",
"crosvm":{"pivotRoot":"/var/empty"},
"interfaces":[{"type":"tap","id":"vm-web","mac":"02:00:00:00:00:01"}]}`

// listing lists all files below dir with modes and owners. Random names must not be
// left.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		all[rel] = fmt.Sprintf("%06o %d", st.Mode, st.Uid)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// underUmask calls f with that umask.
func underUmask(mask int, f func() error) error {
	defer unix.Umask(unix.Umask(mask))
	return f()
}

func TestWhatAnInstallationMakesDoesNotDependOnTheUmask(t *testing.T) {
	var want map[string]string
	for _, mask := range []int{0o022, 0o027, 0o077, 0, 0o777} {
		h := host(t)
		h.GCRoots = filepath.Dir(h.StateDir) + "/gcroots"
		if err := os.Mkdir(h.GCRoots, 0o755); err != nil {
			t.Fatal(err)
		}
		vm, err := h.VM("web")
		if err != nil {
			t.Fatal(err)
		}
		err = underUmask(mask, func() error {
			for _, name := range []string{"a", "b"} { // the second is an update
				pkg := build(t, h, name, strings.Replace(everything, `"/k"`, `"/k`+name+`"`, 1))
				if err := vm.Install(context.Background(), pkg, Origin{Spec: "/etc/web.json"}, nil); err != nil {
					return err
				}
			}
			if err := vm.SetBooted(); err != nil {
				return err
			}
			return vm.WriteRecord("tap-interfaces", []string{"vm-web"})
		})
		if err != nil {
			t.Fatalf("umask %04o: %v", mask, err)
		}
		got := listing(t, filepath.Dir(h.StateDir))
		if want == nil {
			want = got
			if len(want) < 30 {
				t.Fatalf("only %d files were made: %v", len(want), want)
			}
			continue
		}
		for _, path := range slices.Sorted(maps.Keys(want)) {
			if got[path] != want[path] {
				t.Errorf("umask %04o: %s is %q, want %q", mask, path, got[path], want[path])
			}
		}
		if len(got) != len(want) {
			t.Errorf("umask %04o: %d files, want %d", mask, len(got), len(want))
		}
	}
}

func TestAnInstallationMendsWhatAnotherUmaskMade(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", everything)
	install := func() error { return vm.Install(context.Background(), pkg, Origin{Spec: "/etc/web.json"}, nil) }
	if err := install(); err != nil {
		t.Fatal(err)
	}
	want := listing(t, filepath.Dir(h.StateDir))
	// As created with umask 027.
	for path, was := range want {
		if strings.HasPrefix(was, "04") && path != "." && path != "a" {
			if err := os.Chmod(filepath.Join(filepath.Dir(h.StateDir), path), 0o750); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := underUmask(0o027, install); err != nil {
		t.Fatal(err)
	}
	got := listing(t, filepath.Dir(h.StateDir))
	for path := range want {
		// Packages that were built manually and systemd's files are not changed.
		if strings.HasPrefix(path, "a/") || path == "units" {
			continue
		}
		if got[path] != want[path] {
			t.Errorf("%s is %q, want %q", path, got[path], want[path])
		}
	}
}
