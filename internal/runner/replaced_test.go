package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

// built is a package of a spec of the golden files.
func built(t *testing.T, name string, o Options) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "package")
	if _, err := Build(withQEMU(10, 0), readSpec(t, name), dst, o); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dst, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dst
}

// put replaces a program of the package.
func put(t *testing.T, path, text string) {
	t.Helper()
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestAProgramPutInThePlaceOfOursRuns: a replaced program runs, and nothing else changes.
func TestAProgramPutInThePlaceOfOursRuns(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	put(t, other, "#!/bin/sh\n")
	cases := map[string]struct {
		spec     string
		change   func(run, shutdown string)
		foreign  bool
		shutdown string
	}{
		"nothing changed":                 {"minimal", func(_, _ string) {}, false, hypervisor.ShutdownCtrlAltDel},
		"another run":                     {"minimal", func(run, _ string) { put(t, run, "#!/bin/sh\n") }, true, hypervisor.ShutdownCtrlAltDel},
		"a link to another run":           {"minimal", func(run, _ string) { _ = os.Remove(run); _ = os.Symlink(other, run) }, true, hypervisor.ShutdownCtrlAltDel},
		"a link to a copy of the same":    {"minimal", func(run, _ string) { _ = os.Rename(run, run+"-wrapped"); _ = os.Symlink("microvm-run-wrapped", run) }, false, hypervisor.ShutdownCtrlAltDel},
		"a dangling link":                 {"minimal", func(run, _ string) { _ = os.Remove(run); _ = os.Symlink("nothing", run) }, true, hypervisor.ShutdownCtrlAltDel},
		"no run":                          {"minimal", func(run, _ string) { _ = os.Remove(run) }, false, hypervisor.ShutdownCtrlAltDel},
		"another shutdown":                {"minimal", func(_, shutdown string) { put(t, shutdown, "#!/bin/sh\n") }, false, hypervisor.ShutdownScript},
		"a link to another shutdown":      {"minimal", func(_, shutdown string) { _ = os.Remove(shutdown); _ = os.Symlink(other, shutdown) }, false, hypervisor.ShutdownScript},
		"both":                            {"minimal", func(run, shutdown string) { put(t, run, ""); put(t, shutdown, "") }, true, hypervisor.ShutdownScript},
		"a shutdown taken out":            {"minimal", func(_, shutdown string) { _ = os.Remove(shutdown) }, false, hypervisor.ShutdownNone},
		"a shutdown where there was none": {"no-socket", func(_, shutdown string) { put(t, shutdown, "#!/bin/sh\n") }, false, hypervisor.ShutdownScript},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := built(t, c.spec, testOptions)
			before := readPlan(t, dir)
			c.change(filepath.Join(dir, RunProgram), filepath.Join(dir, ShutdownProgram))
			plan := readPlan(t, dir)
			if plan.Foreign != c.foreign || c.foreign != slices.Equal(plan.Argv, []string{RunProgram}) {
				t.Errorf("foreign: %t, it runs %q", plan.Foreign, plan.Argv)
			}
			ready := before.Readiness.Mode
			if c.foreign {
				ready = hypervisor.ReadyNone
			}
			if plan.Readiness.Mode != ready {
				t.Errorf("it is ready when %q", plan.Readiness.Mode)
			}
			if plan.Shutdown.Method != c.shutdown {
				t.Errorf("it goes down by %s (%s), want %s", plan.Shutdown.Method, plan.Shutdown.Why, c.shutdown)
			}
			p, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close() }()
			p.AsBuilt()
			if plan, err := p.Plan(); err != nil || plan.Foreign || plan.Shutdown.Method != before.Shutdown.Method {
				t.Errorf("as it was built: %v, %v", plan, err)
			}
		})
	}
}

// TestAPackageOfBeforeRunsByItsPlan: older packages have no digests of their programs.
func TestAPackageOfBeforeRunsByItsPlan(t *testing.T) {
	dir := built(t, "minimal", testOptions)
	file := filepath.Join(dir, planFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at, end := strings.Index(string(data), `"programs": {`), 0
	end = at + strings.Index(string(data)[at:], "}")
	text := strings.TrimRight(strings.TrimRight(string(data)[:at], " \n"), ",") + string(data)[end+1:]
	put(t, file, text)
	put(t, filepath.Join(dir, RunProgram), "#!/bin/sh\n")
	if plan := readPlan(t, dir); plan.Foreign || plan.Programs != nil {
		t.Errorf("a package without digests is foreign: %t, %v", plan.Foreign, plan.Programs)
	}
}

// TestAScriptFindsItsPackage by its own path, and a copy of it, such as one that a shell
// reads from a pipe, by the path where the package was built.
func TestAScriptFindsItsPackage(t *testing.T) {
	bin := t.TempDir()
	put(t, filepath.Join(bin, "microvm"), "#!/bin/sh\nprintf '%s ' \"$1\" \"$2\"; cd \"$3\" && pwd -P; echo \"$PATH\"\n")
	dir := filepath.Join(t.TempDir(), "it's here")
	if _, err := Build(withQEMU(10, 0), readSpec(t, "minimal"), dir, Options{BinDir: bin, LibexecDir: bin, At: dir, Path: "/more/bin"}); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	run := filepath.Join(dir, RunProgram)
	data, err := os.ReadFile(run)
	if err != nil {
		t.Fatal(err)
	}
	put(t, copied, string(data))
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(run, link); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"'%s'", "bash <(sed 's/^#.*//' '%s')", copied, link, "sh < '%s'"} {
		if strings.Contains(command, "%s") {
			command = fmt.Sprintf(command, strings.ReplaceAll(run, "'", `'\''`))
		}
		out, err := exec.Command("bash", "-c", command).CombinedOutput()
		lines := strings.Split(string(out), "\n")
		if err != nil || lines[0] != "run --as-built "+real || !strings.HasSuffix(lines[1], ":/more/bin") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	// The script of a moved package uses that package.
	moved := dir + "-moved"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(moved, RunProgram)).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "run --as-built "+real+"-moved\n") {
		t.Errorf("moved: %v: %s", err, out)
	}
}

// TestMoreLastArgumentsThanThereAreAreRefused: Last must be less than the number of arguments.
func TestMoreLastArgumentsThanThereAreAreRefused(t *testing.T) {
	for last, ok := range map[int]bool{-1: false, 0: true, 1: true, 2: false, 3: false} {
		text := fmt.Sprintf(`{"version":1,"name":"web","hypervisor":"qemu","argv":["/bin/true","-x"],"last":%d,"shutdown":{"method":"none"},"readiness":{"mode":"none"}}`, last)
		if _, err := decodePlan([]byte(text)); (err == nil) != ok {
			t.Errorf("%d last arguments of 2: %v", last, err)
		}
	}
}
