package start

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

func TestSourcesOf9pSharesAreMadeBeneathTheStateDirectory(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	old := unix.Umask(0o077)
	err := makeSources(dir, []hypervisor.NinePShare{{Tag: "a", Source: "deep/er/data"}, {Tag: "b", Source: outside}, {Tag: "c", Source: "deep"}, {Tag: "d", Source: "."}, {Tag: "e", Source: dir}, {Tag: "f", Source: dir + "/own/data"}})
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"deep", "deep/er", "deep/er/data", "own/data"} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != sourceMode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "link")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"link/x":           "hint: put a directory there: links",
		"file":             "not a directory",
		outside + "/gone":  "gone: no such file or directory\nhint: create the directory",
		dir + "/file":      "not a directory\nhint: ",
		"../" + "escaping": "invalid",
	} {
		err := makeSources(dir, []hypervisor.NinePShare{{Tag: "t", Source: source}})
		if err == nil || want != "invalid" && !strings.Contains(exit.Text(err), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("made outside: %v, %v", entries, err)
	}
}

func TestAMissingHypervisorIsNamedOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		dir + "/none":     dir + "/none: no such file or directory",
		file + "/none":    file + "/none: not a directory",
		file:              file + " is not executable",
		"no-such-program": "no-such-program not found in PATH",
	} {
		if _, err := findProgram(name); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}
