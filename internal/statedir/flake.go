package statedir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/exit"
)

// pathSchemes are the schemes of flake references whose path may be relative.
var pathSchemes = []string{"path", "git+file", "hg+file", "file", "tarball+file", "file+file"}

// AbsoluteFlake makes the path of a flake reference absolute, if it has a relative one,
// since updates run in other directories.
func AbsoluteFlake(ref string) (string, error) {
	scheme, path, found := strings.Cut(ref, ":")
	if found && slices.Contains(pathSchemes, scheme) {
		scheme += ":"
	} else {
		scheme, path = "", ref
	}
	path, query, asked := strings.Cut(path, "?")
	dot := path == "." || path == ".." || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../")
	// Without a scheme and a leading dot it is a name in Nix's registry.
	if strings.HasPrefix(path, "/") || scheme == "" && !dot {
		return ref, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("resolve flake %q: %w", ref, err), "use an absolute path")
	}
	path = filepath.Join(dir, path)
	if asked {
		path += "?" + query
	}
	return scheme + path, nil
}
