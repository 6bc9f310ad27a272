package cli

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

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
