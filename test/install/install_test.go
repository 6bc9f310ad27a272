// Package install tests make install and make uninstall.
package install

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/test/need"
)

// files are the paths below dir that are no directories.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestUninstallRemovesAllThatInstallPutThere works on a copy of the tree, for it
// builds.
func TestUninstallRemovesAllThatInstallPutThere(t *testing.T) {
	need.Program(t, "git")
	need.Program(t, "make")
	source, root := t.TempDir(), t.TempDir()
	if out, err := exec.Command("sh", "-c", `cd ../.. && git ls-files -z | xargs -0 cp --parents -t "$0"`, source).CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	others := []string{"/usr/lib/systemd/system/other.service", "/usr/share/man/man1/other.1", "/var/lib/microvms/web/data.img"}
	for _, path := range others {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(target string) {
		t.Helper()
		out, err := exec.Command("make", "-s", "-C", source, target, "DESTDIR="+root, "PREFIX=/usr", "VERSION=test").CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	run("install")
	installed := files(t, root)
	for _, want := range []string{
		"/usr/bin/microvm", "/usr/bin/install-microvm", "/usr/lib/microvm/microvm-run-wrapper",
		"/usr/lib/systemd/system/microvm@.service", "/usr/lib/systemd/system/multi-user.target.wants/microvms.target",
		"/usr/lib/sysusers.d/microvm.conf", "/usr/share/man/man1/microvm.1", "/usr/share/zsh/site-functions/_microvm",
	} {
		if !slices.Contains(installed, want) {
			t.Errorf("make install did not install %s", want)
		}
	}
	if out, err := exec.Command(root+"/usr/bin/microvm", "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "test") {
		t.Errorf("microvm --version: %v: %s", err, out)
	}
	run("uninstall")
	if left := files(t, root); !slices.Equal(left, others) {
		t.Errorf("make uninstall left %q, want %q", left, others)
	}
	if _, err := os.Stat(root + "/usr/lib/microvm"); err == nil {
		t.Error("make uninstall left the directory of the helpers")
	}
	run("uninstall") // again, and nothing is there
}
