package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// builder makes the generations.
type builder struct {
	// nixpkgs and upstream are the trees that were given, host is the program of
	// test/host, and work is where all of this is.
	nixpkgs, upstream, host, work string
	// root is the Debian root.
	root string
}

func (b *builder) store() string { return filepath.Join(b.work, "root", "nix/store") }

// checkTrees says what is missing before it takes minutes to fail of it.
func checkTrees(nixpkgs, upstream string) error {
	if nixpkgs == "" {
		return errors.New("no tree of nixpkgs is given\nhint: make test-nixos NIXOS=DIR, where DIR is a checkout of nixpkgs")
	}
	for _, name := range []string{"lib/default.nix", "nixos/lib/eval-config.nix", "pkgs/stdenv/generic/default.nix", "pkgs/build-support/trivial-builders/default.nix"} {
		if _, err := os.Stat(filepath.Join(nixpkgs, name)); err != nil {
			return fmt.Errorf("%s is not laid out as nixpkgs: %s not found\nhint: it has to hold lib/, nixos/ and pkgs/", nixpkgs, name)
		}
	}
	if upstream == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(upstream, "nixos-modules/host")); err != nil {
		return fmt.Errorf("%s is no tree of microvm.nix: nixos-modules/host not found", upstream)
	}
	return nil
}

// build makes what the generations are made of, and returns where each is in the
// store.
func (b *builder) build(ctx context.Context) (map[string]string, error) {
	for _, dir := range []*string{&b.nixpkgs, &b.upstream, &b.work, &b.host} {
		if *dir == "" {
			continue
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, err
		}
		*dir = abs
	}
	out, err := command(ctx, b.host, "root")
	if err != nil {
		return nil, err
	}
	b.root = strings.TrimSpace(out)
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"build the test guest", b.guest},
		{"build the programs", b.programs},
	} {
		fmt.Printf("==> %s\n", step.what)
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	fmt.Println("==> evaluate and build the generations")
	return b.generations(ctx)
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, errs.Bytes())
	}
	return string(out), nil
}

func (b *builder) guest(ctx context.Context) error {
	dir := filepath.Join(b.work, "guest")
	if _, err := command(ctx, b.host, "assets", filepath.Join(b.work, "payload")); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil { //nolint:gosec // nix reads it
		return err
	}
	for _, name := range []string{"vmlinuz", "initrd"} {
		if err := os.Rename(filepath.Join(b.work, "payload/usr/lib/microvm-test", name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// programs builds the Go programs for a package whose path is not known yet:
// another, of the same length, stands for it.
func (b *builder) programs(ctx context.Context) error {
	version, err := os.ReadFile("nix/version")
	if err != nil {
		return err
	}
	v := strings.TrimSpace(string(version))
	placeholder := "/nix/store/" + strings.Repeat("e", 32) + "-microvm-" + v
	dir := filepath.Join(b.work, "programs")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "bin"), 0o755)); err != nil { //nolint:gosec // nix reads it
		return err
	}
	flags := fmt.Sprintf("-s -w -X main.version=%s -X main.libexecDir=%[2]s/lib/microvm -X main.binDir=%[2]s/bin", v, placeholder)
	if _, err := command(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(dir, "bin"), "./cmd/..."); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "path"), []byte(placeholder), 0o644) //nolint:gosec // nix reads it
}

// generations evaluates and builds them, in a store of their own, in nix's
// sandbox, in which there is nothing but the Debian root's /usr.
func (b *builder) generations(ctx context.Context) (map[string]string, error) {
	taken := scan(b.nixpkgs, b.upstream)
	data, err := json.Marshal(taken)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.work, "taken.json")
	if err := os.WriteFile(file, data, 0o644); err != nil { //nolint:gosec // nix reads it
		return nil, err
	}
	upstream := "null"
	if b.upstream != "" {
		upstream = path(b.upstream)
	}
	expression := fmt.Sprintf(`(import ./test/nixos/generations.nix {
		nixpkgs = %s; upstream = %s; guest = %s; programs = %s;
		inherit (builtins.fromJSON (builtins.readFile %s)) names examples;
	}).links`, path(b.nixpkgs), upstream, path(filepath.Join(b.work, "guest")), path(filepath.Join(b.work, "programs")), path(file))
	paths := []string{"/usr=" + b.root + "/usr", "/bin=" + b.root + "/usr/bin", "/lib=" + b.root + "/usr/lib", "/lib64=" + b.root + "/usr/lib64"}
	for _, dir := range []string{"/etc/alternatives", "/var/lib/dpkg/info"} {
		paths = append(paths, dir+"="+b.root+dir)
	}
	args := []string{"--store", filepath.Join(b.work, "root"), "--no-out-link", "--max-jobs", "4", "-E", expression}
	for key, value := range map[string]string{
		"build-users-group": "", "substituters": "", "sandbox": "true", "sandbox-fallback": "false", "sandbox-paths": strings.Join(paths, " "),
	} {
		args = append(args, "--option", key, value)
	}
	out, err := command(ctx, "nix-build", args...)
	if err != nil {
		return nil, err
	}
	links := filepath.Join(b.work, "root", strings.TrimSpace(out))
	entries, err := os.ReadDir(links)
	if err != nil {
		return nil, err
	}
	systems := map[string]string{}
	for _, e := range entries {
		if systems[e.Name()], err = os.Readlink(filepath.Join(links, e.Name())); err != nil {
			return nil, err
		}
	}
	return systems, nil
}

// path is a path in nix's language, whose own notation knows few characters.
func path(name string) string {
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

// keywords of nix, which an expression in a list may begin with.
var keywords = strings.Fields("if then else let in with rec inherit assert or")

// scan reads the modules: an attribute that pkgs does not have ends an evaluation,
// whoever never uses it.
func scan(nixpkgs, upstream string) taken {
	names, examples := map[string]map[string]bool{}, map[string]bool{}
	add := func(name, inner string) {
		if names[name] == nil {
			names[name] = map[string]bool{}
		}
		if inner != "" {
			names[name][inner] = true
		}
	}
	roots := []string{filepath.Join(nixpkgs, "nixos/modules"), filepath.Join(nixpkgs, "nixos/lib"), "nixos-modules", "nix"}
	if upstream != "" {
		roots = append(roots, upstream)
	}
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".nix" {
				return nil //nolint:nilerr // what is not there names nothing
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // the same
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
