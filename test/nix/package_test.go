package nix

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	build := exec.Command("go", "build", "-o", program, "./cmd/microvm")
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
		cmd := exec.Command(name, args...)
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

// TestEveryPathMoves: a host with another state directory and user has them in every
// directive of every unit, and the programs by the path that stays.
func TestEveryPathMoves(t *testing.T) {
	type service struct{ Unit, Service map[string]any }
	services := golden[map[string]struct{ Services map[string]service }](t, "hosts")["with-everything-elsewhere"].Services
	n := 0
	for name, lines := range unitFiles(t) {
		for _, line := range lines {
			if !strings.Contains(line.value, "/var/lib/microvms") && !strings.Contains(line.value, "@LIBEXECDIR@") && line.key != "User" && line.key != "Group" {
				continue
			}
			n++
			got, ok := services[name].Service[line.key]
			if !ok {
				got = services[name].Unit[line.key]
			}
			want := strings.NewReplacer("/var/lib/microvms", "/srv/vms", "@LIBEXECDIR@", "/etc/microvm/libexec", "kvm", "vmm").Replace(line.value)
			if line.key == "User" {
				want = "vmm"
			}
			if text := fmt.Sprint(got); !strings.Contains(text, want) {
				t.Errorf("%s: %s=%s is %v", name, line.key, line.value, got)
			}
		}
	}
	if n < 18 {
		t.Errorf("found %d directives", n)
	}
}

// assignment is a line of a unit file.
type assignment struct{ key, value string }

// unitFiles are the assignments of the templates of systemd/, by the unit's name as
// NixOS has it.
func unitFiles(t *testing.T) map[string][]assignment {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "systemd/*.service"))
	if err != nil || len(files) < 7 {
		t.Fatalf("found the units %v: %v", files, err)
	}
	units := map[string][]assignment{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".service")
		for line := range strings.Lines(read(t, file)) {
			if strings.HasPrefix(line, "[Install]") {
				break
			}
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				units[name] = append(units[name], assignment{key, value})
			}
		}
	}
	return units
}

// TestNixOSHasWhatTheUnitsSay: every line of every unit file is in the service that
// NixOS writes, with its value, and nothing else is but what the host's module adds.
func TestNixOSHasWhatTheUnitsSay(t *testing.T) {
	type service struct {
		Unit, Service                          map[string]any
		After, Before, PartOf, Requires, Wants []string
		OverrideStrategy                       *string
	}
	services := golden[map[string]struct{ Services map[string]service }](t, "hosts")["with-no-vm"].Services
	// Those that the host's options say.
	options := map[string]string{"TimeoutStartSec=150": "TimeoutSec=150", "TimeoutStopSec=90": "TimeoutStopSec=150"}
	for name, lines := range unitFiles(t) {
		s, ok := services[name]
		if !ok {
			t.Errorf("%s is not a service", name)
			continue
		}
		if s.OverrideStrategy != nil {
			t.Errorf("%s is a drop-in, which hides others of its name", name)
		}
		words := map[string][]string{"After": s.After, "Before": s.Before, "PartOf": s.PartOf, "Requires": s.Requires, "Wants": s.Wants}
		keys := map[string]bool{"BindReadOnlyPaths": true}
		for _, line := range lines {
			want := line.key + "=" + strings.ReplaceAll(line.value, "@LIBEXECDIR@", "/etc/microvm/libexec")
			if other, ok := options[want]; ok && name == "microvm@" {
				want = other
			}
			key, value, _ := strings.Cut(want, "=")
			keys[key] = true
			if list, ok := words[key]; ok {
				for _, word := range strings.Fields(value) {
					if !slices.Contains(list, word) {
						t.Errorf("%s: %s= lacks %s: %v", name, key, word, list)
					}
				}
				continue
			}
			if key == "Description" || key == "Documentation" {
				continue
			}
			got, ok := s.Service[key]
			if !ok {
				got, ok = s.Unit[key]
			}
			values, isList := got.([]any)
			if !isList {
				values = []any{got}
			}
			if !ok || !slices.ContainsFunc(values, func(v any) bool { return fmt.Sprint(v) == value }) {
				t.Errorf("%s: %s is %v", name, want, got)
			}
		}
		for key := range s.Service {
			if !keys[key] {
				t.Errorf("%s: %s= is in no unit file", name, key)
			}
		}
	}
}

// TestANewReleaseRestartsNoVM: a switch restarts what has another unit than before. A
// release of the programs changes what installs VMs, and none of the units of a VM; a
// VM that is another one changes its own.
func TestANewReleaseRestartsNoVM(t *testing.T) {
	hosts := golden[map[string]struct{ Services map[string]json.RawMessage }](t, "hosts")
	before := hosts["with-a-vm-of-its-own"].Services
	changed := func(host string) []string {
		var names []string
		after := hosts[host].Services
		if len(after) != len(before) || len(before) < 8 {
			t.Fatalf("%s has %d units, and before there were %d", host, len(after), len(before))
		}
		for name, unit := range before {
			if string(after[name]) != string(unit) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	if got, want := changed("with-a-vm-of-its-own-and-newer-programs"), []string{"install-microvm-web", "microvm-orphans"}; !slices.Equal(got, want) {
		t.Errorf("a new release changes %v, want %v", got, want)
	}
	if got, want := changed("with-a-vm-of-its-own-and-more-cpus"), []string{"microvm@web"}; !slices.Equal(got, want) {
		t.Errorf("one more CPU changes %v, want %v", got, want)
	}
}
