package nix

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The programs that make a store disk: bwrap binds by linking, or has no mount
// namespace, and mkfs keeps what it finds in the directory.
const (
	binds   = `while [ "$1" != -- ]; do case $1 in --ro-bind) ln -s "$2" "$3"; shift 3 ;; *) shift ;; esac; done; shift; exec "$@"`
	refuses = `exit 1`
	packs   = `echo "${0##*/} $*" >> "$LOG"; ls store > "$out"; cat store/*/file >> "$out"`
)

// TestStoreDiskHoldsTheClosure runs the build of store disks: each path of the
// guest's closure is in it once, and none of an excluded one.
func TestStoreDiskHoldsTheClosure(t *testing.T) {
	tests := map[string]struct{ script, bwrap, mkfs, holds string }{
		"erofs":                         {"storeDisk", binds, "mkfs.erofs -zlz4hc -Eztailpacking -Efragments -T 0 --all-root -L nix-store --mount-point=/nix/store", "a\nb\nc\nof a\nof c\n"},
		"squashfs":                      {"squashedStoreDisk", binds, "gensquashfs -c zstd -j 2 -D store --all-root -q", "a\nb\nc\nof a\nof c\n"},
		"without an excluded closure":   {"smallerStoreDisk", binds, "mkfs.erofs -zlz4hc", "a\nb\nof a\n"},
		"where nothing can be bound":    {"storeDisk", refuses, "mkfs.erofs -zlz4hc", "a\nb\nc\nof a\nof c\n"},
		"without it, and nothing bound": {"smallerStoreDisk", refuses, "mkfs.erofs -zlz4hc", "a\nb\nof a\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRemote(t)
			r.program(t, "bin/bwrap", tt.bwrap)
			r.program(t, "bin/mkfs.erofs", packs)
			r.program(t, "bin/gensquashfs", packs)
			for _, path := range []string{"a", "c"} {
				mkdir(t, filepath.Join(r.dir, "paths", path))
				write(t, filepath.Join(r.dir, "paths", path, "file"), []byte("of "+path+"\n"))
			}
			write(t, filepath.Join(r.dir, "paths/b"), nil)
			closure := func(of string, names ...string) {
				var lines string
				for _, n := range names {
					lines += filepath.Join(r.dir, "paths", n) + "\n"
				}
				write(t, filepath.Join(r.dir, "closure-of-"+of), []byte(lines))
			}
			closure("nixos-system-web-closure-info", "c", "a", "b", "a")
			closure("nixos-system-web", "c", "a", "b")
			closure("xfsprogs", "c")

			out := filepath.Join(r.dir, "out")
			cmd := exec.Command("bash", "-c", r.scripts[tt.script])
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "PATH="+r.dir+"/bin:"+os.Getenv("PATH"), "LOG="+r.log, "out="+out, "NIX_BUILD_CORES=2", "LC_ALL=C")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if got := read(t, out); got != tt.holds {
				t.Errorf("the image holds\n%s\nwant\n%s", got, tt.holds)
			}
			calls := slices.DeleteFunc(strings.Split(read(t, r.log), "\n"), func(call string) bool { return call == "" })
			if len(calls) != 1 || !strings.HasPrefix(calls[0], tt.mkfs) || !strings.Contains(calls[0], out) {
				t.Errorf("it is made by %q, want %q … %s", calls, tt.mkfs, out)
			}
		})
	}
}

// TestStoreDiskThatFailsIsNone: what mkfs cannot make fails the build.
func TestStoreDiskThatFailsIsNone(t *testing.T) {
	r := newRemote(t)
	r.program(t, "bin/bwrap", binds)
	r.program(t, "bin/mkfs.erofs", "exit 3")
	write(t, filepath.Join(r.dir, "closure-of-nixos-system-web-closure-info"), []byte(r.log+"\n"))
	cmd := exec.Command("bash", "-c", r.scripts["storeDisk"])
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+r.dir+"/bin:"+os.Getenv("PATH"), "out="+filepath.Join(r.dir, "out"))
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("mkfs failed, and the build gave %v\n%s", err, text)
	}
}
