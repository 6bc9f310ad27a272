package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestATreeIsWrittenWhole(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a/b/file"), []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	// A link to nothing, and one that would lead out, are parts of their directory.
	for name, target := range map[string]string{"dangling": "nowhere", "out": "/proc/self/mem"} {
		if err := os.Symlink(target, filepath.Join(root, "a", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Tree(root); err != nil {
		t.Error(err)
	}
	if err := Tree(filepath.Join(root, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tree that is not there: %v", err)
	}
}

func TestARenameReplaces(t *testing.T) {
	root := t.TempDir()
	from, to := filepath.Join(root, "from"), filepath.Join(root, "sub/to")
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{from: "new", to: "old"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(to); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	if err := Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second rename: %v", err)
	}
}
