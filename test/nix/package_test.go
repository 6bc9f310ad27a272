package nix

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackageIsWhatMakeInstalls: a NixOS host starts the units that make
// install puts on any other, and that the test hosts start.
func TestPackageIsWhatMakeInstalls(t *testing.T) {
	dir := t.TempDir()
	out, dest := filepath.Join(dir, "out"), filepath.Join(dir, "dest")
	commands, err := os.ReadDir(filepath.Join(root, "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	// Names of programs are enough: neither side builds any.
	for _, c := range commands {
		for _, bin := range []string{filepath.Join(dir, "src/build/bin"), filepath.Join(out, "bin")} {
			mkdir(t, bin)
			write(t, filepath.Join(bin, c.Name()), []byte(c.Name()))
		}
		mkdir(t, filepath.Join(dir, "src/cmd", c.Name()))
	}
	// But for the one that writes the manual and the completions.
	program := filepath.Join(dir, "microvm")
	build := exec.Command("go", "build", "-o", program, "./cmd/microvm") //nolint:gosec // a path of the test's
	build.Dir = root
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build microvm: %v\n%s", err, text)
	}
	for _, bin := range []string{filepath.Join(dir, "src/build/bin"), filepath.Join(out, "bin")} {
		target := filepath.Join(bin, "microvm")
		if err := errors.Join(os.Remove(target), os.Link(program, target)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "src/Makefile"), []byte(read(t, filepath.Join(root, "Makefile"))))
	if err := os.CopyFS(filepath.Join(dir, "src/systemd"), os.DirFS(filepath.Join(root, "systemd"))); err != nil {
		t.Fatal(err)
	}

	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...) //nolint:gosec // what is under test
		cmd.Dir = filepath.Join(dir, "src")
		cmd.Env = append(os.Environ(), "out="+out, "MAKEFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	run("make", "-s", "install", "GO=true", "PREFIX="+out, "DESTDIR="+dest)
	run("bash", "-c", golden[map[string]string](t, "scripts")["postInstall"])

	byMake, byNix := tree(t, filepath.Join(dest, out)), tree(t, out)
	// On NixOS the host module makes the target wanted.
	delete(byMake, "lib/systemd/system/multi-user.target.wants/microvms.target")
	for name, text := range byMake {
		other, ok := byNix[name]
		switch {
		case !ok:
			t.Errorf("%s is installed by make install and not by nix/package.nix", name)
		case text != other:
			t.Errorf("%s differs:\nmake install\n%s\nnix/package.nix\n%s", name, text, other)
		}
	}
	maps.DeleteFunc(byNix, func(name, _ string) bool { _, ok := byMake[name]; return ok })
	for name := range byNix {
		t.Errorf("%s is installed by nix/package.nix and not by make install", name)
	}
	if len(byMake) < 40 {
		t.Errorf("make install installed %d files", len(byMake))
	}
}

// tree reads all files below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = read(t, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestEveryPathMoves: a host with another state directory and user overrides
// every directive that names them.
func TestEveryPathMoves(t *testing.T) {
	type service struct{ Unit, Service map[string]any }
	services := golden[map[string]struct{ Services map[string]service }](t, "hosts")["with-everything-elsewhere"].Services
	units, err := filepath.Glob(filepath.Join(root, "systemd/*.service"))
	if err != nil || len(units) < 6 {
		t.Fatalf("found %d units: %v", len(units), err)
	}
	n := 0
	for _, unit := range units {
		name := strings.TrimSuffix(filepath.Base(unit), ".service")
		for line := range strings.Lines(read(t, unit)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			named := strings.Contains(value, "/var/lib/microvms") || key == "User" || key == "Group"
			if !ok || strings.HasPrefix(key, "#") || !named {
				continue
			}
			n++
			dropIn := services[name]
			override, ok := dropIn.Service[key]
			if !ok {
				override = dropIn.Unit[key]
			}
			text := fmt.Sprint(override)
			if !strings.Contains(text, strings.ReplaceAll(value, "/var/lib/microvms", "/srv/vms")) && text != "vmm" {
				t.Errorf("%s: %s=%s is overridden by %v", name, key, value, override)
			}
		}
	}
	if n < 6 {
		t.Errorf("found %d directives", n)
	}
}
