package statedir

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestARelativeFlakeIsTheSameFromEverywhere(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for ref, want := range map[string]string{
		".":                             dir,
		"..":                            filepath.Dir(dir),
		"./infra?dir=hosts":             dir + "/infra?dir=hosts",
		"../x":                          filepath.Dir(dir) + "/x",
		"path:.":                        "path:" + dir,
		"path:infra":                    "path:" + dir + "/infra",
		"path:./infra?narHash=sha256-a": "path:" + dir + "/infra?narHash=sha256-a",
		"git+file:.":                    "git+file:" + dir,
		"git+file:../r?dir=a/../b":      "git+file:" + filepath.Dir(dir) + "/r?dir=a/../b",
		"tarball+file:x.tar.gz":         "tarball+file:" + dir + "/x.tar.gz",
		"file:x.tar.gz":                 "file:" + dir + "/x.tar.gz",
		"hg+file:r":                     "hg+file:" + dir + "/r",
		// These do not depend on the directory.
		"/etc/nixos":                       "/etc/nixos",
		"path:/etc/nixos":                  "path:/etc/nixos",
		"git+file:///etc/nixos?ref=main":   "git+file:///etc/nixos?ref=main",
		"git+https://git.example.org/a?b=": "git+https://git.example.org/a?b=",
		"github:owner/repo":                "github:owner/repo",
		"infra":                            "infra",
		"flake:infra/main":                 "flake:infra/main",
	} {
		if got, err := AbsoluteFlake(ref); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", ref, got, err, want)
		}
	}
}

func TestWhatIsRecordedHasItsWholePath(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", plain)
	dir := filepath.Dir(h.StateDir)
	t.Chdir(dir)
	for _, c := range []struct{ from, want Origin }{
		{Origin{Spec: "web.json"}, Origin{Spec: dir + "/web.json"}},
		{Origin{Flake: "path:infra"}, Origin{Flake: "path:" + dir + "/infra"}},
		{Origin{Toplevel: "result"}, Origin{Toplevel: dir + "/result"}},
	} {
		if err := vm.Install(context.Background(), pkg, c.from, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Origin(); err != nil || got != c.want {
			t.Errorf("%+v is recorded as %+v (%v), want %+v", c.from, got, err, c.want)
		}
	}
}

func TestDirectoriesOfTheEnvironmentAreAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"MICROVM_STATE_DIR", "MICROVM_RUNTIME_DIR", "MICROVM_UNIT_DIR"} {
		t.Setenv(name, "below/"+name+"/")
	}
	h := HostFromEnv()
	for got, want := range map[string]string{h.StateDir: "STATE", h.RuntimeDir: "RUNTIME", h.UnitDir: "UNIT"} {
		if want = dir + "/below/MICROVM_" + want + "_DIR"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
