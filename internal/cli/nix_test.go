package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"microvm/internal/statedir"
	"microvm/test/need"
)

// newNixHost returns a host on which tests run as root, with the nix of this machine.
func newNixHost(t *testing.T) *host {
	t.Helper()
	need.Root(t)
	need.Program(t, "nix")
	dir, err := os.MkdirTemp("/var/lib", "microvm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	// Nothing is fetched, and /bin/sh builds.
	t.Setenv("NIX_CONFIG", "substitute = false\nsandbox = false\nbuild-users-group =")
	return &host{dir: dir}
}

func (h *host) nixCommand(args ...string) int {
	h.stdout.Reset()
	h.stderr.Reset()
	c := &Command{
		Host:  h.nixHost(),
		Stdin: &bytes.Buffer{}, Stdout: &h.stdout, Stderr: &h.stderr, BinDir: "/usr/bin",
	}
	return c.Run(args)
}

func (h *host) nixHost() statedir.Host {
	return statedir.Host{
		StateDir: filepath.Join(h.dir, "vms"), RuntimeDir: filepath.Join(h.dir, "run"), UnitDir: filepath.Join(h.dir, "units"),
		GCRoots: filepath.Join(h.dir, "gcroots"), User: "nobody", Group: "nogroup", LibexecDir: "/usr/lib/microvm",
	}
}

// flake writes a flake whose VM has a runner that is built from a copy.
func (h *host) flake(t *testing.T, dir, name, members string) {
	t.Helper()
	h.write(t, "spec.json", members)
	text, err := os.ReadFile("spec.json")
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`"name":"web"`), []byte(`"name":"`+name+`"`), 1)
	if err := os.WriteFile("spec.json", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := h.nixCommand("build", "spec.json", "-o", filepath.Join(dir, "runner")); code != 0 {
		t.Fatal(&h.stderr)
	}
	flake := fmt.Sprintf(`{
	outputs = { self }: {
	  nixosConfigurations.%q.config.microvm.declaredRunner = derivation {
	    name = "microvm-test-runner";
	    system = %q;
	    builder = "/bin/sh";
	    args = [ "-c" "PATH=/usr/bin:/bin; cp -r ${./runner} $out" ];
	  };
	};
}
`, name, map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH])
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(flake), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAVMLivesItsLifeWithTheRealNix(t *testing.T) {
	h := newNixHost(t)
	const name = "r.eal"
	// All characters that a URL can contain and a shell would interpret. Spaces and # are
	// left out, because versions of nix treat them differently.
	dir := filepath.Join(h.dir, `it's-a-"flake";$(touch,pwned)&`)
	ref := "path:" + dir
	for _, d := range []string{dir, filepath.Join(h.dir, "gcroots")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := func(code int, text string, words ...string) {
		t.Helper()
		if got := h.nixCommand(words...); got != code || !strings.Contains(h.stdout.String()+h.stderr.String(), text) {
			t.Fatalf("microvm %q: exit code %d, %s%s\nwant %d and %q", words, got, &h.stdout, &h.stderr, code, text)
		}
	}
	h.flake(t, dir, name, "")
	want(1, "nix could not build other from flake "+ref, "create", "other", "-f", ref)
	if _, err := os.Lstat("vms/other"); err == nil {
		t.Error("a failed build left a VM")
	}
	want(0, name+": created", "-c", name, "-f", ref)
	current, err := os.Readlink(filepath.Join("vms", name, "current"))
	if err != nil || !strings.HasPrefix(current, "/nix/store/") {
		t.Errorf("current is %q (%v)", current, err)
	}
	if root, err := filepath.EvalSymlinks(filepath.Join("gcroots/microvm", name)); err != nil || root != current {
		t.Errorf("Nix keeps %q (%v)", root, err)
	}
	want(0, "not booted", "list", "--check")
	want(0, "is up to date", "-u", name)
	// There is no service manager: do what a start does, and later a stop.
	vm := statedir.VM{Host: h.nixHost(), Name: name}
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	want(0, "current", "list", "--check")
	h.flake(t, dir, name, `,"mem":300`)
	want(0, "outdated", "list", "--check")
	want(0, "+ -m 300M", "update", "--dry-run", name)
	want(0, name+": updated", "-u", name)
	want(0, "stale", "list", "--check")
	if err := vm.ClearBooted(); err != nil {
		t.Fatal(err)
	}
	want(0, "not booted", "list", "--check")
	want(0, "rolled back to "+current, "rollback", name)
	want(0, "removed", "rm", "--yes", name)
	for _, left := range []string{filepath.Join("vms", name), filepath.Join("gcroots/microvm", name)} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("%s is still there", left)
		}
	}
}
