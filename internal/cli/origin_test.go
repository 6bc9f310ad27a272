package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/test/need"
)

// rootsHost returns a host on which tests run as root, without Nix.
func rootsHost(t *testing.T) *host {
	t.Helper()
	need.Root(t)
	dir, err := os.MkdirTemp("/var/lib", "microvm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return &host{dir: dir}
}

// says runs the command and checks its exit code and that its output contains all of words.
func (h *host) says(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	got := h.nixCommand(args...)
	text := h.stdout.String() + h.stderr.String()
	for _, w := range words {
		if got != code || !strings.Contains(text, w) {
			t.Fatalf("microvm %q: exit code %d, %s\nwant %d and %q", args, got, text, code, w)
		}
	}
}

func TestAnUpdateTakesNothingThatAGuestPlanted(t *testing.T) {
	h := rootsHost(t)
	h.write(t, "web.json", "")
	h.says(t, 0, []string{"created in"}, "create", "web", "-s", "web.json")
	current, err := os.Readlink("vms/web/current")
	if err != nil {
		t.Fatal(err)
	}
	// A file that a guest's root writes to a share is owned by root on the host, and the
	// hypervisor can move it to any free name.
	evil := filepath.Join(h.dir, "vms/web/home/evil.json")
	plant := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("vms/web/home", 0o755); err != nil {
		t.Fatal(err)
	}
	plant(evil, `{"name":"web","arch":"x86_64","kernel":"/vmlinuz","mem":1234}`)
	plant("vms/web/flake", "path:/evil")
	if err := errors.Join(os.Symlink("/var", "vms/web/toplevel"), os.Symlink(h.dir, "vms/web/old")); err != nil {
		t.Fatal(err)
	}
	h.says(t, 0, []string{"web: is up to date"}, "update", "web")
	h.says(t, 0, []string{"spec " + filepath.Join(h.dir, "web.json")}, "status", "web")
	h.says(t, 1, []string{"has no previous package to roll back to"}, "rollback", "web")
	// root's own files in the VM's directory are not read, either.
	plant("vms/web/spec", evil)
	h.says(t, 0, []string{"web: is up to date"}, "update", "--all")
	h.says(t, 0, []string{"removed"}, "rm", "--yes", "web")
	// A VM that was made from a package has none of the names.
	h.says(t, 0, nil, "build", "web.json", "-o", "package")
	h.says(t, 0, []string{"created in"}, "create", "web", "-p", "package")
	plant("vms/web/spec", evil)
	h.says(t, 1, []string{"was created from a package, so it cannot be rebuilt"}, "update", "web")
	if got, err := os.Readlink("vms/web/current"); err != nil || got != current {
		t.Errorf("current is %s (%v), want %s", got, err, current)
	}
	if err := os.MkdirAll("vms/other/home", 0o755); err != nil {
		t.Fatal(err)
	}
	plant("vms/other/home/x.json", `{"name":"x","arch":"x86_64","kernel":"/vmlinuz"}`)
	h.says(t, 1, []string{"where guests write", "move it"}, "create", "x", "-s", "vms/other/home/x.json")
	if _, err := os.Lstat("vms/x"); err == nil {
		t.Error("a spec that was refused left a VM")
	}
}

func TestASpecThatCameIntoGuestsReachIsRefused(t *testing.T) {
	h := rootsHost(t)
	h.write(t, "web.json", "")
	h.says(t, 0, []string{"created in"}, "create", "web", "-s", "web.json")
	if err := errors.Join(os.Mkdir("vms/web/home", 0o755), os.Rename("web.json", "vms/web/home/web.json"), os.Symlink("vms/web/home/web.json", "web.json")); err != nil {
		t.Fatal(err)
	}
	h.says(t, 1, []string{"where guests write"}, "update", "web")
}

// A VM of microvm.nix has a directory in which its hypervisor can write any name.
func TestAVMOfMicrovmNixIsTakenOverByNameOnly(t *testing.T) {
	h := rootsHost(t)
	h.write(t, "web.json", "")
	h.says(t, 0, nil, "build", "web.json", "-o", "package")
	if err := errors.Join(os.MkdirAll("vms/web", 0o755), os.Chmod("vms/web", 0o775),
		os.WriteFile("vms/web/flake", []byte("git+file:///etc/nixos"), 0o644),
		os.Symlink(filepath.Join(h.dir, "package"), "vms/web/current")); err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{"web", "--all"} {
		h.says(t, 1, []string{"its recorded source cannot be trusted", "hint: inspect " + filepath.Join(h.dir, "vms/web/flake"), "microvm create web -f FLAKE"}, "update", which)
	}
	h.says(t, 0, []string{"unknown (not installed by microvm)"}, "status", "web")
	h.says(t, 1, []string{"nowhere"}, "create", "web", "-s", "nowhere")
	if _, err := os.Readlink("vms/web/current"); err != nil {
		t.Errorf("a take-over that failed took the VM's package away: %v", err)
	}
	h.says(t, 0, []string{"web: taken over in"}, "create", "web", "-s", "web.json")
	h.says(t, 0, []string{"web: is up to date"}, "update", "--all")
	h.says(t, 1, []string{`VM "web" already exists`}, "create", "web", "-s", "web.json")
}
