// Command nixstandin behaves like the part of nix that the microvm command
// uses, as nix documents it: build -o, eval --raw, store diff-closures, with
// packages in /nix/store. It is put in PATH as nix on hosts that have none.
//
// Directory $NIX_STANDIN steers it: flakes/REF/NAME.json, REF being escaped as
// in a URL's path, is the spec of nixosConfigurations.NAME of flake REF. A file
// sleep holds how long a build takes, warn what is said in it, fail with what
// it fails, fail.NAME the same for one VM. Each call's arguments are appended
// to calls, as JSON, a line a call.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const store = "/nix/store"

func main() {
	if err := run(os.Getenv("NIX_STANDIN"), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func run(dir string, args []string) error {
	if err := record(filepath.Join(dir, "calls"), args); err != nil {
		return err
	}
	for _, feature := range []string{"nix-command", "flakes"} {
		if !strings.Contains(os.Getenv("NIX_CONFIG"), feature) {
			return fmt.Errorf("experimental Nix feature '%s' is disabled; add '--extra-experimental-features %s' to enable it", feature, feature)
		}
	}
	switch {
	case len(args) == 4 && args[0] == "build" && args[1] == "-o":
		path, err := build(dir, args[3])
		if err != nil {
			return err
		}
		_ = os.Remove(args[2])
		return os.Symlink(path, args[2])
	case len(args) == 3 && args[0] == "eval" && args[1] == "--raw":
		path, err := build(dir, args[2])
		fmt.Print(path)
		return err
	case len(args) == 4 && args[0] == "store" && args[1] == "diff-closures":
		return diff(args[2], args[3])
	}
	return fmt.Errorf("'%s' is not a recognised command", strings.Join(args, " "))
}

func record(path string, args []string) error {
	line, err := json.Marshal(args)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// build makes the package of an installable and returns its path.
func build(dir, installable string) (string, error) {
	flake, attribute, ok := strings.Cut(installable, "#nixosConfigurations.")
	name, rest, ok2 := strings.Cut(attribute, ".config.")
	if strings.HasPrefix(attribute, `"`) {
		name, rest, ok2 = strings.Cut(attribute[1:], `".config.`)
	}
	if !ok || !ok2 || rest != "microvm.declaredRunner" {
		return "", fmt.Errorf("flake '%s' does not provide attribute 'nixosConfigurations.%s'", flake, attribute)
	}
	spec := filepath.Join(dir, "flakes", url.PathEscape(flake), name+".json")
	if _, err := os.Stat(spec); err != nil {
		return "", fmt.Errorf("flake '%s' does not provide attribute 'nixosConfigurations.%s'", flake, attribute)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "warn")); err == nil {
		fmt.Fprintf(os.Stderr, "\x1b[35;1mwarning:\x1b[0m %s\n", strings.TrimSpace(string(text)))
	}
	if text, err := os.ReadFile(filepath.Join(dir, "sleep")); err == nil {
		fmt.Fprintf(os.Stderr, "building '%s/%s.drv'...\n", store, name)
		d, err := time.ParseDuration(strings.TrimSpace(string(text)))
		if err != nil {
			return "", err
		}
		time.Sleep(d)
	}
	for _, f := range []string{"fail", "fail." + name} {
		if text, err := os.ReadFile(filepath.Join(dir, f)); err == nil {
			return "", errors.New(strings.TrimSpace(string(text)))
		}
	}
	return realise(spec, name)
}

func realise(spec, name string) (string, error) {
	if err := os.MkdirAll(store, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(store, ".tmp-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	out := filepath.Join(tmp, "out")
	if text, err := exec.Command("microvm", "build", spec, "-o", out).CombinedOutput(); err != nil {
		return "", fmt.Errorf("builder for '%s' failed: %s", name, text)
	}
	plan, err := os.ReadFile(filepath.Join(out, "share/microvm/runner.json"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(plan)
	path := filepath.Join(store, hex.EncodeToString(sum[:])[:32]+"-microvm-"+name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, os.Rename(out, path)
}

// diff prints how the sizes of two packages differ, as diff-closures does where
// no version changed.
func diff(a, b string) error {
	sizes := [2]int{}
	for i, path := range []string{a, b} {
		plan, err := os.ReadFile(filepath.Join(path, "share/microvm/runner.json"))
		if err != nil {
			return fmt.Errorf("path '%s' is not valid", path)
		}
		sizes[i] = len(plan)
	}
	fmt.Printf("microvm: ε → ∅, \x1b[31;1m%+.1f KiB\x1b[0m\n", float64(sizes[1]-sizes[0])/1024)
	return nil
}
