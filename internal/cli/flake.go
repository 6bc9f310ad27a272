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

// hostConfig is the default source of VMs on a host with Nix, as in microvm.nix.
const hostConfig = "/etc/nixos"

// checkFlake returns an error for a flake reference that nix would not treat as one, or
// that cannot be recorded. All else is left to nix.
func checkFlake(ref string) error {
	switch {
	case strings.TrimSpace(ref) == "":
		return exit.WithHint(errors.New("the flake reference is empty"), "use one such as git+https://git.example.org/infra")
	case strings.HasPrefix(ref, "-"):
		return exit.WithHint(fmt.Errorf("flake reference %q looks like a flag", ref), "add its scheme, such as path:/…")
	case strings.ContainsAny(ref, "\x00\n\r"):
		return fmt.Errorf("invalid flake reference %q: must not contain line breaks or NUL bytes", ref)
	}
	return nil
}

// hostFlake returns the flake reference of the host's own configuration: the directory
// of flake.nix with its links resolved, as nixos-rebuild does. In a git repository the
// flake is the tracked files, elsewhere all files of the directory.
func hostFlake(etc string) (string, error) {
	file, err := filepath.EvalSymlinks(filepath.Join(etc, "flake.nix"))
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("no flake in %s: %w", etc, err), "specify a flake with -f, or a spec with -s")
	}
	dir := filepath.Dir(file)
	for top := dir; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			ref := "git+file://" + (&url.URL{Path: top}).EscapedPath()
			if rel, err := filepath.Rel(top, dir); err == nil && rel != "." {
				ref += "?dir=" + strings.ReplaceAll(url.QueryEscape(rel), "+", "%20") // nix does not decode "+"
			}
			return ref, nil
		}
		if top == "/" {
			return "path:" + (&url.URL{Path: dir}).EscapedPath(), nil
		}
	}
}

var plainAttribute = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]*$`)

// installable returns the installable of a VM's runner package in a flake, nix(1). A
// name with a dot is quoted, as in the Nix language.
func installable(flake, name string) string {
	if !plainAttribute.MatchString(name) {
		name = `"` + name + `"`
	}
	return flake + "#nixosConfigurations." + name + ".config.microvm.declaredRunner"
}
