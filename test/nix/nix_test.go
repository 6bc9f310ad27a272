// Package nix tests the NixOS modules: it evaluates the cases of cases.nix with
// the modules and stubs of NixOS, compares the results with the files in
// golden/, and builds a runner package of each spec among them.
//
// Evaluation needs nix-instantiate and the lib directory of nixpkgs, which is
// found through NIXPKGS_LIB or NIX_PATH=nixpkgs=…. Where that is not to be had,
// what was evaluated before is still built and looked at; it carries a digest of
// all that the evaluation reads, and the tests fail where that has changed since.
package nix

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/spec"
	"microvm/test/need"
)

var update = flag.Bool("update", false, "write the golden files")

// root is the repository, seen from this package.
const root = "../.."

// attributes of eval.nix, each with a golden file.
var attributes = []string{"guests", "examples", "refused", "hosts", "refusedHosts", "scripts", "options", "paths", "settable", "outputs", "functions"}

// sourcesFile is the digest of the sources that the golden files were made from.
const sourcesFile = "golden/sources.sha256"

// nixpkgsLib returns the lib directory of nixpkgs, or "".
func nixpkgsLib() string {
	candidates := []string{os.Getenv("NIXPKGS_LIB")}
	for entry := range strings.SplitSeq(os.Getenv("NIX_PATH"), ":") {
		if path, ok := strings.CutPrefix(entry, "nixpkgs="); ok {
			candidates = append(candidates, filepath.Join(path, "lib"))
		}
	}
	for _, c := range candidates {
		if _, err := os.Stat(filepath.Join(c, "modules.nix")); c != "" && err == nil {
			return c
		}
	}
	return ""
}

// nixInstantiate returns a command that touches no store of this machine.
func nixInstantiate(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("nix-instantiate", args...)
	cmd.Env = append(os.Environ(), "NIX_REMOTE=dummy://", "HOME="+t.TempDir())
	return cmd
}

// nixFiles lists the repository's Nix files.
func nixFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".nix" {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEveryNixFileParses(t *testing.T) {
	files := nixFiles(t)
	if len(files) < 20 {
		t.Fatalf("found only %d Nix files below %s", len(files), root)
	}
	need.Program(t, "nix-instantiate")
	// One call for all: it stops at the first error, which has the file's name.
	cmd := nixInstantiate(t, append([]string{"--parse"}, files...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
}

// inputs are the files that the evaluation reads, and the directories whose names
// it reads, seen from the root. TestModulesEvaluate gives it nothing else.
func inputs(t *testing.T) (files, names []string) {
	t.Helper()
	for _, f := range nixFiles(t) {
		relative, err := filepath.Rel(root, f)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, relative)
	}
	files = append(files, "internal/hypervisor/capabilities.json", "internal/unit/units.json", "nix/version", "nix/vendor-hash")
	units, err := filepath.Glob(root + "/systemd/*.service")
	if err != nil || len(units) < 7 {
		t.Fatalf("found the units %v: %v", units, err)
	}
	for _, unit := range units {
		files = append(files, "systemd/"+filepath.Base(unit))
	}
	slices.Sort(files)
	return files, []string{"cmd"}
}

// sources is a digest of the inputs.
func sources(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	files, dirs := inputs(t)
	for _, f := range files {
		text := read(t, filepath.Join(root, f))
		_, _ = fmt.Fprintf(h, "%s %d\n%s", f, len(text), text)
	}
	for _, d := range dirs {
		entries, err := os.ReadDir(filepath.Join(root, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			_, _ = fmt.Fprintf(h, "%s/%s\n", d, e.Name())
		}
	}
	return hex.EncodeToString(h.Sum(nil)) + "\n"
}

// only is a copy of the repository with nothing but the inputs.
func only(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files, dirs := inputs(t)
	for _, d := range dirs {
		entries, err := os.ReadDir(filepath.Join(root, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.MkdirAll(filepath.Join(dir, d, e.Name()), 0o750); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range files {
		target := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
			t.Fatal(err)
		}
		write(t, target, []byte(read(t, filepath.Join(root, f))))
	}
	return dir
}

// renew is the command that writes the golden files.
const renew = "NIXPKGS_LIB=…/nixpkgs/lib go test ./test/nix -update"

// TestTheGoldenFilesAreOfTheseModules: what is built and looked at below, with or
// without nixpkgs, is what these sources give.
func TestTheGoldenFilesAreOfTheseModules(t *testing.T) {
	renewed := *update && nixpkgsLib() != ""
	if !renewed && read(t, sourcesFile) != sources(t) {
		t.Errorf("something that the evaluation of the NixOS modules reads has changed since test/nix/golden was made\nhint: %s", renew)
	}
}

// TestModulesEvaluate compares every case with its golden file.
func TestModulesEvaluate(t *testing.T) {
	lib := nixpkgsLib()
	if lib == "" {
		t.Skipf("NOT RUN: %d evaluations of the NixOS modules; they need nixpkgs' lib (NIXPKGS_LIB or NIX_PATH)", countCases(t))
	}
	need.Program(t, "nix-instantiate")
	tree := only(t)
	for _, attribute := range attributes {
		t.Run(attribute, func(t *testing.T) { evaluates(t, tree, lib, attribute) })
	}
	if *update && !t.Failed() {
		write(t, sourcesFile, []byte(sources(t)))
	}
}

func countCases(t *testing.T) int {
	t.Helper()
	n := 0
	for _, attribute := range attributes[:5] {
		n += len(golden[map[string]json.RawMessage](t, attribute))
	}
	return n
}

func evaluates(t *testing.T, tree, lib, attribute string) {
	cmd := nixInstantiate(t, "--eval", "--strict", "--json", filepath.Join(tree, "test/nix/eval.nix"), "--arg", "lib", "import "+lib, "-A", attribute)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("evaluate %s: %v\n%s", attribute, err, stderr.String())
	}
	got := normal(t, out)
	file := "golden/" + attribute + ".json"
	if *update {
		write(t, file, got)
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what the modules give; look at: %s && git diff test/nix\n%s", file, renew, difference(want, got))
	}
}

// normal is the JSON text as the golden files have it.
func normal(t *testing.T, out []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// difference is the first lines that differ.
func difference(want, got []byte) string {
	a, b := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\n- %s\n+ %s", i+1, strings.Join(a[i:min(i+5, len(a))], "\n- "), strings.Join(b[i:min(i+5, len(b))], "\n+ "))
		}
	}
	return fmt.Sprintf("%d lines became %d", len(a), len(b))
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func golden[T any](t *testing.T, attribute string) T {
	t.Helper()
	data, err := os.ReadFile("golden/" + attribute + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// guest is one entry of golden/guests.json and golden/examples.json.
type guest struct {
	Spec     json.RawMessage
	Failures []string
	Warnings []string
	// AuthorizedKeysFiles are what its sshd reads in addition to NixOS's own.
	AuthorizedKeysFiles []string
	Runner              struct {
		CanShutdown, SupportsNotifySocket, TapMultiQueue bool
		Name, Text                                       string
	}
}

// TestSpecsBuild feeds what the modules write to what microvm build does, and
// compares what both say of the package.
func TestSpecsBuild(t *testing.T) {
	guests := golden[map[string]guest](t, "guests")
	examples := golden[map[string]guest](t, "examples")
	if len(examples) < 40 {
		t.Errorf("found %d guests among the examples", len(examples))
	}
	for name, g := range examples {
		guests["examples/"+name] = g
	}
	for name, g := range guests {
		t.Run(name, func(t *testing.T) {
			if len(g.Failures) > 0 {
				t.Fatalf("the modules refuse it: %v", g.Failures)
			}
			plan := build(t, g.Spec)
			if can := plan.Shutdown.Method != hypervisor.ShutdownNone; can != g.Runner.CanShutdown {
				t.Errorf("canShutdown is %v in Nix and %v in the package (%s)", g.Runner.CanShutdown, can, plan.Shutdown.Why)
			}
			const key = "/run/credentials/@system/ssh.ephemeral-authorized_keys-all"
			if over := plan.Shutdown.Method == hypervisor.ShutdownGuestOverSSH; over && !slices.Contains(g.AuthorizedKeysFiles, key) {
				t.Errorf("it is shut down over ssh, and its sshd reads no key but %q", g.AuthorizedKeysFiles)
			}
			if reports := plan.Readiness.Mode == hypervisor.ReadyGuest; reports != g.Runner.SupportsNotifySocket {
				t.Errorf("supportsNotifySocket is %v in Nix, and the package is ready by %s", g.Runner.SupportsNotifySocket, plan.Readiness.Mode)
			}
			multi := slices.ContainsFunc(plan.Taps, func(tap hypervisor.Tap) bool { return tap.MultiQueue })
			if multi && !g.Runner.TapMultiQueue {
				t.Error("the package has multi-queue taps, and in Nix it has none")
			}
		})
	}
}

// TestPathsAreCleanedAsInGo, so that the modules and the programs take the same two
// for one.
func TestPathsAreCleanedAsInGo(t *testing.T) {
	paths := golden[map[string]string](t, "paths")
	if len(paths) < 10 {
		t.Errorf("found only %d paths", len(paths))
	}
	for path, got := range paths {
		if want := filepath.Clean(path); got != want {
			t.Errorf("%q is %q in Nix and %q in Go", path, got, want)
		}
	}
}

func build(t *testing.T, text []byte) *hypervisor.Plan {
	t.Helper()
	s, err := spec.Parse(text)
	if err != nil {
		t.Fatalf("the spec is refused: %v\n%s", err, text)
	}
	dst := filepath.Join(t.TempDir(), "runner")
	plan, err := runner.Build(&hypervisor.Builder{}, s, dst, runner.Options{LibexecDir: "/lib", BinDir: "/bin"})
	if err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	// bin/microvm-run has its shebang in line 1, where the modules insert PATH
	// below it.
	script, err := os.ReadFile(filepath.Join(dst, runner.RunProgram))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(script, []byte("#!/bin/sh\n")) {
		t.Errorf("%s does not begin with #!/bin/sh:\n%s", runner.RunProgram, script)
	}
	return plan
}

// TestUnsetMeansTheSame: a guest that sets nothing has the defaults that a spec
// has which a person writes.
func TestUnsetMeansTheSame(t *testing.T) {
	byNix, err := spec.Parse(golden[map[string]guest](t, "guests")["with-nothing-set"].Spec)
	if err != nil {
		t.Fatal(err)
	}
	byHand := &spec.Spec{
		Name: "web", Arch: "x86_64",
		// What only NixOS knows.
		Kernel: byNix.Kernel, InitrdPath: byNix.InitrdPath, KernelParams: byNix.KernelParams, StoreDisk: byNix.StoreDisk,
		QEMU: spec.QEMU{Package: byNix.QEMU.Package},
	}
	byHand.SetDefaults()
	if a, b := compact(t, byNix), compact(t, byHand); a != b {
		t.Errorf("unset options differ:\nNix  %s\nspec %s", a, b)
	}
}

func compact(t *testing.T, s *spec.Spec) string {
	t.Helper()
	var v map[string]any
	text, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	withoutEmpty(v)
	text, err = json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// withoutEmpty takes out empty lists and objects, which are the same as none.
func withoutEmpty(v map[string]any) {
	maps.DeleteFunc(v, func(_ string, e any) bool {
		list, isList := e.([]any)
		object, isObject := e.(map[string]any)
		if isObject {
			withoutEmpty(object)
		}
		return isList && len(list) == 0 || isObject && len(object) == 0
	})
}

// TestRefusedConfigurationsSaySo: one line with the cause, and where there is
// something to do a line with a hint, as everywhere (docs/style.md).
func TestRefusedConfigurationsSaySo(t *testing.T) {
	for _, attribute := range []string{"refused", "refusedHosts"} {
		for name, messages := range golden[map[string][]string](t, attribute) {
			if len(messages) == 0 {
				t.Errorf("%s: nothing is refused", name)
			}
			for _, m := range messages {
				cause, hint, hasHint := strings.Cut(m, "\n")
				if cause == "" || strings.HasSuffix(m, ".") || hasHint && !strings.HasPrefix(hint, "hint: ") {
					t.Errorf("%s: %q is not a cause and a hint", name, m)
				}
			}
		}
	}
}

// TestVendorHash recomputes what buildGoModule wants to see.
func TestVendorHash(t *testing.T) {
	need.Program(t, "nix")
	dir := t.TempDir()
	copySources(t, dir)
	vendor := exec.Command("go", "mod", "vendor")
	vendor.Dir = dir
	vendor.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := vendor.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	hash := exec.Command("nix", "--extra-experimental-features", "nix-command", "hash", "path", filepath.Join(dir, "vendor"))
	hash.Env = append(os.Environ(), "HOME="+dir)
	got, err := hash.Output()
	if err != nil {
		t.Fatalf("nix hash path: %v", err)
	}
	digest, _ := strings.CutPrefix(strings.TrimSpace(string(got)), "sha256-")
	if raw, err := base64.StdEncoding.DecodeString(digest); err != nil || len(raw) != sha256.Size {
		t.Fatalf("nix hash path printed %q", got)
	}
	if *update {
		write(t, root+"/nix/vendor-hash", got)
	}
	want, err := os.ReadFile(root + "/nix/vendor-hash")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("nix/vendor-hash is %s and go mod vendor gives %s; run: go test ./test/nix -run VendorHash -update", bytes.TrimSpace(want), bytes.TrimSpace(got))
	}
}

// copySources copies what nix/package.nix takes as its source, as far as Go is
// concerned.
func copySources(t *testing.T, dir string) {
	t.Helper()
	for _, part := range []string{"go.mod", "go.sum", "cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			target := filepath.Join(dir, relative)
			switch {
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir():
				return os.MkdirAll(target, 0o750)
			case strings.HasSuffix(path, "_test.go"):
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, data, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var nixBlock = regexp.MustCompile("(?ms)^```nix\n(.*?)^```$")

// TestNixOfTheHandbookParses: every example in the handbook is a whole expression.
func TestNixOfTheHandbookParses(t *testing.T) {
	need.Program(t, "nix-instantiate")
	files, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no chapters: %v", err)
	}
	n := 0
	for _, f := range files {
		for _, m := range nixBlock.FindAllStringSubmatch(read(t, f), -1) {
			if strings.HasPrefix(m[1], "{{#include") {
				continue
			}
			n++
			if out, err := nixInstantiate(t, "--parse", "--expr", m[1]).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", f, err, out, m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("found %d examples", n)
	}
}
