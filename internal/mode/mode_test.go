package mode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// masks are a usual umask, two strict ones, none, and all bits.
var masks = []int{0o022, 0o027, 0o077, 0, 0o777}

func TestModesOfDirectoriesDoNotDependOnTheUmask(t *testing.T) {
	for _, mask := range masks {
		dir := t.TempDir()
		// Directories that are created in this one inherit its group and the bit.
		if err := unix.Chmod(dir, 0o2777); err != nil {
			t.Fatal(err)
		}
		old := unix.Umask(mask)
		err := errors.Join(Dir(filepath.Join(dir, "one"), 0o755), DirAll(filepath.Join(dir, "a/b/c"), 0o755), Dir(filepath.Join(dir, "two"), 0o700))
		unix.Umask(old)
		if err != nil {
			t.Fatalf("umask %04o: %v", mask, err)
		}
		for name, want := range map[string]uint32{"one": 0o755, "a": 0o755, "a/b": 0o755, "a/b/c": 0o755, "two": 0o700} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Mode & 0o7777; got != want {
				t.Errorf("umask %04o: %s has mode %04o, want %04o", mask, name, got, want)
			}
		}
	}
}

func TestEnsureMendsAModeAndNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	link := dir + "-link"
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(dir, link), Ensure(link, 0o755)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("what a link leads to was changed: %v, %v", info.Mode(), err)
	}
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(file, 0o755); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file in its place: %v", err)
	}
	if err := Dir(dir, 0o755); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name that is taken: %v", err)
	}
}
