package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// builder makes what the tests run, in a store of its own.
type builder struct {
	// The trees that were given, of nixpkgs, of microvm.nix and of configurations,
	// and the program of switch-to-configuration; "" is none.
	nixpkgs, upstream, cases, switcher string
	// host is the program of test/host, and work is where all of this is.
	host, work string
	// root is the Debian root.
	root string
	// digest is of everything that an evaluation reads.
	digest string
}

func (b *builder) store() string            { return filepath.Join(b.work, "root", "nix/store") }
func (b *builder) in(name ...string) string { return filepath.Join(b.work, filepath.Join(name...)) }

// checkInputs returns an error for what is missing, before a build takes minutes to fail.
func (b *builder) checkInputs() error {
	if b.nixpkgs == "" {
		return errors.New("no tree of nixpkgs is given\nhint: make test-nixos NIXOS=DIR, where DIR is a checkout of nixpkgs")
	}
	for _, name := range []string{"lib/default.nix", "nixos/lib/eval-config.nix", "pkgs/stdenv/generic/default.nix", "pkgs/build-support/trivial-builders/default.nix"} {
		if _, err := os.Stat(filepath.Join(b.nixpkgs, name)); err != nil {
			return fmt.Errorf("%s is not laid out as nixpkgs: %s not found\nhint: it has to hold lib/, nixos/ and pkgs/", b.nixpkgs, name)
		}
	}
	if b.upstream != "" {
		if _, err := os.Stat(filepath.Join(b.upstream, "nixos-modules/host")); err != nil {
			return fmt.Errorf("%s is not a checkout of microvm.nix: nixos-modules/host not found", b.upstream)
		}
	}
	if b.switcher != "" {
		info, err := os.Stat(b.switcher)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is not a program\nhint: STC_NG=FILE needs the compiled switch-to-configuration-ng", b.switcher)
		}
	}
	return nil
}

// prepare makes what all evaluations take.
func (b *builder) prepare(ctx context.Context) error {
	for _, name := range []*string{&b.nixpkgs, &b.upstream, &b.cases, &b.switcher, &b.work, &b.host} {
		if *name == "" {
			continue
		}
		abs, err := filepath.Abs(*name)
		if err != nil {
			return err
		}
		*name = abs
	}
	out, err := command(ctx, b.host, "root")
	if err != nil {
		return err
	}
	b.root = strings.TrimSpace(out)
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"build the test guest", b.guest},
		{"build the programs", b.current},
		{"build the programs of another release", b.release},
		{"look for what has changed", b.inputs},
	} {
		fmt.Printf("==> %s\n", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	out, _, err := commandIn(ctx, "", name, args...)
	return out, err
}

// commandIn returns what a program printed, and what it said.
func commandIn(ctx context.Context, dir, name string, args ...string) (string, string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	if err := cmd.Run(); err != nil {
		return "", "", fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, errs.Bytes())
	}
	return out.String(), errs.String(), nil
}

func (b *builder) guest(ctx context.Context) error {
	dir := b.in("guest")
	if _, err := command(ctx, b.host, "assets", b.in("payload")); err != nil {
		return err
	}
	if err := emptied(dir); err != nil {
		return err
	}
	for _, name := range []string{"vmlinuz", "initrd"} {
		if err := os.Rename(b.in("payload/usr/lib/microvm-test", name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// emptied makes an empty directory, which nix reads.
func emptied(dir string) error {
	return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}

// programs builds a tree's Go programs for a package whose path is not known yet:
// another, of the same length, stands for it.
func (b *builder) programs(ctx context.Context, tree, into string) error {
	version, err := os.ReadFile(filepath.Join(tree, "nix/version"))
	if err != nil {
		return err
	}
	v := strings.TrimSpace(string(version))
	placeholder := "/nix/store/" + strings.Repeat("e", 32) + "-microvm-" + v
	if err := emptied(filepath.Join(into, "bin")); err != nil {
		return err
	}
	flags := fmt.Sprintf("-s -w -X main.version=%s -X main.libexecDir=%[2]s/lib/microvm -X main.binDir=%[2]s/bin", v, placeholder)
	// A package is built where there is no git, whose commit would be in them.
	if _, _, err := commandIn(ctx, tree, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", filepath.Join(into, "bin"), "./cmd/..."); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, "path"), []byte(placeholder), 0o644)
}

// ours is what evaluations read of the project.
var ours = strings.Fields("cmd internal systemd nix nixos-modules lib pkgs examples template flake.nix go.mod go.sum LICENSE test/nixos")

// lay copies the sources, so that edits during a build do not matter.
func lay(ctx context.Context, tree string) error {
	if err := emptied(tree); err != nil {
		return err
	}
	_, err := command(ctx, "cp", append([]string{"-a", "--parents", "-t", tree}, ours...)...)
	return err
}

func (b *builder) current(ctx context.Context) error {
	if err := lay(ctx, b.in("project")); err != nil {
		return err
	}
	return b.programs(ctx, b.in("project"), b.in("programs"))
}

// release lays the project out with another version, and builds that as well.
func (b *builder) release(ctx context.Context) error {
	tree := b.in("release")
	if err := lay(ctx, tree); err != nil {
		return err
	}
	file := filepath.Join(tree, "nix/version")
	version, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(strings.TrimSpace(string(version))+".1\n"), 0o644); err != nil {
		return err
	}
	return b.programs(ctx, tree, b.in("release-programs"))
}

// inputs writes down what modules take from pkgs, and makes the digest of what
// evaluations read: who changes a test only waits for none.
func (b *builder) inputs(context.Context) error {
	data, err := json.Marshal(scan(b.nixpkgs, b.in("project"), b.upstream, b.cases))
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.in("taken.json"), data, 0o644); err != nil {
		return err
	}
	names := []string{b.in("project"), b.upstream, b.switcher, b.in("guest"), b.in("programs"), b.in("release-programs"), b.in("taken.json")}
	for _, name := range []string{"lib", "nixos/lib", "nixos/modules", "pkgs/stdenv", "pkgs/build-support", "pkgs/pkgs-lib", "pkgs/top-level/config.nix"} {
		names = append(names, filepath.Join(b.nixpkgs, name))
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%q\n", []string{b.root, b.nixpkgs, b.upstream, b.switcher, b.work})
	if err := digest(sum, names...); err != nil {
		return err
	}
	b.digest = hex.EncodeToString(sum.Sum(nil))[:32]
	return nil
}

// digest writes the files below some names to a sum, but for Go's tests and git's.
func digest(sum io.Writer, names ...string) error {
	for _, name := range names {
		if name == "" {
			continue
		}
		err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata"):
				return fs.SkipDir
			case d.IsDir(), strings.HasSuffix(path, "_test.go"), strings.Contains(path, "/test/nixos/") && filepath.Ext(path) == ".go":
				return nil
			case d.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				_, _ = fmt.Fprintf(sum, "%q -> %q\n", path, target)
				return err
			}
			data, err := os.ReadFile(path)
			_, _ = fmt.Fprintf(sum, "%q %x\n", path, sha256.Sum256(data))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// generations builds those that are named, and returns where each is in the store.
// Each is evaluated by a nix of its own: one for all would take 10 GiB.
func (b *builder) generations(ctx context.Context, names []string) (map[string]string, error) {
	fmt.Printf("==> evaluate and build %d generations\n", len(names))
	systems := map[string]string{}
	queue := make(chan string)
	var lock sync.Mutex
	var group sync.WaitGroup
	var errs []error
	for range runtime.NumCPU() {
		group.Go(func() {
			for name := range queue {
				began := time.Now()
				path, kept, err := b.generation(ctx, name)
				lock.Lock()
				switch {
				case err != nil:
					errs = append(errs, fmt.Errorf("generation %s: %w", name, err))
				case kept:
					fmt.Printf("    %s: kept\n", name)
				default:
					fmt.Printf("    %s: %.0f s\n", name, time.Since(began).Seconds())
				}
				systems[name] = path
				lock.Unlock()
			}
		})
	}
	for _, name := range names {
		queue <- name
	}
	close(queue)
	group.Wait()
	return systems, errors.Join(errs...)
}

// generation builds one, or finds it where it was built from the same.
func (b *builder) generation(ctx context.Context, name string) (path string, kept bool, err error) {
	link := b.in("kept", b.digest+"-"+name)
	if path, err := os.Readlink(link); err == nil {
		if _, err := os.Lstat(b.in("root", path)); err == nil {
			return path, true, nil
		}
	}
	path, _, err = b.nix(ctx, fmt.Sprintf("(import %s %s).built.%s", nixPath(b.in("project/test/nixos/generations.nix")), b.arguments(""), name))
	if err != nil {
		return "", false, err
	}
	_ = os.Remove(link)
	return path, false, errors.Join(os.MkdirAll(b.in("kept"), 0o755), os.Symlink(path, link))
}

// built is what a file of configurations gave.
type built struct {
	// parts are the names of systems and runners.
	parts []string
	// warnings are those of its evaluation.
	warnings []string
}

// configurations evaluates and builds what a file has.
func (b *builder) configurations(ctx context.Context, file string) (built, error) {
	out, said, err := b.nix(ctx, fmt.Sprintf("import %s %s", nixPath(b.in("project/test/nixos/cases.nix")), b.arguments("case = "+nixPath(file)+";")))
	if err != nil {
		return built{}, err
	}
	entries, err := os.ReadDir(b.in("root", out))
	if err != nil {
		return built{}, err
	}
	var result built
	for _, e := range entries {
		result.parts = append(result.parts, e.Name())
	}
	for _, m := range warning.FindAllStringSubmatch(said, -1) {
		result.warnings = append(result.warnings, strings.TrimSpace(m[1]))
	}
	return result, nil
}

// arguments are those of generations.nix and cases.nix.
func (b *builder) arguments(more string) string {
	given := func(name string) string {
		if name == "" {
			return "null"
		}
		return nixPath(name)
	}
	return fmt.Sprintf(`{
		nixpkgs = %s; upstream = %s; switcher = %s; guest = %s; programs = %s;
		release = { tree = %s; programs = %s; };
		inherit (builtins.fromJSON (builtins.readFile %s)) names examples; %s
	}`, given(b.nixpkgs), given(b.upstream), given(b.switcher), nixPath(b.in("guest")), nixPath(b.in("programs")),
		nixPath(b.in("release")), nixPath(b.in("release-programs")), nixPath(b.in("taken.json")), more)
}

// nix builds an expression in a store of its own, in nix's sandbox, in which there
// is nothing but the Debian root's /usr. It returns the path and what nix said.
func (b *builder) nix(ctx context.Context, expression string) (string, string, error) {
	paths := []string{"/usr=" + b.root + "/usr", "/bin=" + b.root + "/usr/bin", "/lib=" + b.root + "/usr/lib", "/lib64=" + b.root + "/usr/lib64"}
	for _, dir := range []string{"/etc/alternatives", "/var/lib/dpkg/info"} {
		paths = append(paths, dir+"="+b.root+dir)
	}
	args := []string{"--store", b.in("root"), "--no-out-link", "--max-jobs", "2", "-E", expression}
	for key, value := range map[string]string{
		"build-users-group": "", "substituters": "", "sandbox": "true", "sandbox-fallback": "false", "sandbox-paths": strings.Join(paths, " "),
	} {
		args = append(args, "--option", key, value)
	}
	out, said, err := commandIn(ctx, "", "nix-build", args...)
	return strings.TrimSpace(out), said, err
}

// nixPath is a path in nix's language, whose own notation knows few characters.
func nixPath(name string) string {
	return "(/. + " + strings.ReplaceAll(strconv.Quote(name), "$", `\$`) + ")"
}

// taken is what modules of a tree take from pkgs.
type taken struct {
	// Names has the attributes of pkgs, with those that are taken from them.
	Names map[string][]string `json:"names"`
	// Examples has files below systemd's directory example.
	Examples []string `json:"examples"`
}

var (
	attribute = regexp.MustCompile(`\bpkgs(?:\.buildPackages)?\.([A-Za-z_][A-Za-z0-9_'-]*)(?:\.([A-Za-z_][A-Za-z0-9_'-]*))?`)
	option    = regexp.MustCompile(`mkPackageOption\s+pkgs\s+(?:\[\s*)?"([A-Za-z_][^"]*)"`)
	list      = regexp.MustCompile(`with\s+pkgs(?:\.buildPackages)?\s*;\s*\[([^\]]*)\]`)
	comment   = regexp.MustCompile(`(?m)#.*$`)
	name      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	example   = regexp.MustCompile(`/example/((?:sysctl|tmpfiles)\.d/[A-Za-z0-9._@-]+)`)
	unit      = regexp.MustCompile(`"([A-Za-z0-9@._-]+\.(?:service|socket|target|path|timer|mount|automount|slice))"`)
)

// warning is one, with the lines of its text that follow.
var warning = regexp.MustCompile(`evaluation warning: (.*(?:\n(?:hint: |  ).*)*)`)

// keywords of nix, which an expression in a list may begin with.
var keywords = strings.Fields("if then else let in with rec inherit assert or")

// scan reads the modules: an attribute that pkgs does not have ends an evaluation,
// even one that never uses it.
func scan(nixpkgs string, others ...string) taken {
	names, examples := map[string]map[string]bool{}, map[string]bool{}
	add := func(name, inner string) {
		if names[name] == nil {
			names[name] = map[string]bool{}
		}
		if inner != "" {
			names[name][inner] = true
		}
	}
	roots := []string{filepath.Join(nixpkgs, "nixos/modules"), filepath.Join(nixpkgs, "nixos/lib")}
	for _, root := range append(roots, others...) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".nix" {
				return nil // what is not there names nothing
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil // the same
			}
			text := string(data)
			for _, m := range attribute.FindAllStringSubmatch(text, -1) {
				add(m[1], m[2])
			}
			for _, m := range option.FindAllStringSubmatch(text, -1) {
				add(m[1], "")
			}
			for _, m := range list.FindAllStringSubmatch(text, -1) {
				for _, word := range strings.Fields(comment.ReplaceAllString(m[1], "")) {
					if name.MatchString(word) && !slices.Contains(keywords, word) {
						add(word, "")
					}
				}
			}
			for _, m := range example.FindAllStringSubmatch(text, -1) {
				examples[m[1]] = true
			}
			if strings.Contains(path, "/system/boot/") {
				for _, m := range unit.FindAllStringSubmatch(text, -1) {
					examples["systemd/system/"+m[1]] = true
				}
			}
			return nil
		})
	}
	t := taken{Names: map[string][]string{}, Examples: slices.Sorted(maps.Keys(examples))}
	for name, inner := range names {
		t.Names[name] = append([]string{}, slices.Sorted(maps.Keys(inner))...)
	}
	return t
}
