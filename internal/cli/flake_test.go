package cli

import (
	"errors"
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
		if got, err := absoluteFlake(ref); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", ref, got, err, want)
		}
	}
}

func TestTheHostsFlakeIsWhatNixosRebuildTakes(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"plain", "git/.git", "sub/.git", "sub/hosts/a b", "linked", "empty"} {
		if err := os.MkdirAll(at(d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"plain/flake.nix", "git/flake.nix", "sub/hosts/a b/flake.nix"} {
		if err := os.WriteFile(at(f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("../git/flake.nix", at("linked/flake.nix")), os.Symlink("plain", at("link"))); err != nil {
		t.Fatal(err)
	}
	for etc, want := range map[string]string{
		"plain":         "path:" + dir + "/plain",
		"link":          "path:" + dir + "/plain",
		"git":           "git+file://" + dir + "/git",
		"linked":        "git+file://" + dir + "/git",
		"sub/hosts/a b": "git+file://" + dir + "/sub?dir=hosts%2Fa%20b",
	} {
		if got, err := hostFlake(at(etc)); err != nil || got != want {
			t.Errorf("%s: %s (%v), want %s", etc, got, err, want)
		}
	}
	if got, err := hostFlake(at("empty")); err == nil {
		t.Errorf("without a flake: %s", got)
	}
}
