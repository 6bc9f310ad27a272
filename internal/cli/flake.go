package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"microvm/internal/exit"
)

// hostConfig is where VMs come from on a host with Nix where nothing else is said,
// as with microvm.nix.
const hostConfig = "/etc/nixos"

// checkFlake refuses what nix would take for something else than a flake, and
// what cannot be recorded. Everything else is nix's to judge.
func checkFlake(ref string) error {
	switch {
	case strings.TrimSpace(ref) == "":
		return errors.New("the flake reference is empty; give one such as git+https://git.example.org/infra")
	case strings.HasPrefix(ref, "-"):
		return fmt.Errorf("flake reference %q looks like a flag; write it with its scheme, such as path:/…", ref)
	case strings.ContainsAny(ref, "\x00\n\r"):
		return fmt.Errorf("flake reference %q holds a line break or a NUL byte; remove it", ref)
	}
	return nil
}

// hostFlake is the flake of the host's own configuration: the directory of
// flake.nix, after its links, as nixos-rebuild has it. In a git repository it is
// what git knows of it; elsewhere, all that is in the directory.
func hostFlake(etc string) (string, error) {
	file, err := filepath.EvalSymlinks(filepath.Join(etc, "flake.nix"))
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("there is no flake at %s: %w", etc, err), "name a flake with -f, or a spec with -s")
	}
	dir := filepath.Dir(file)
	for top := dir; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			ref := "git+file://" + (&url.URL{Path: top}).EscapedPath()
			if rel, err := filepath.Rel(top, dir); err == nil && rel != "." {
				ref += "?dir=" + strings.ReplaceAll(url.QueryEscape(rel), "+", "%20") // nix knows no other blank
			}
			return ref, nil
		}
		if top == "/" {
			return "path:" + (&url.URL{Path: dir}).EscapedPath(), nil
		}
	}
}

var plainAttribute = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]*$`)

// installable is the runner of a VM in a flake, as nix takes it. A name with a
// dot is quoted, as in Nix itself.
func installable(flake, name string) string {
	if !plainAttribute.MatchString(name) {
		name = `"` + name + `"`
	}
	return flake + "#nixosConfigurations." + name + ".config.microvm.declaredRunner"
}
