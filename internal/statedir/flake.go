package statedir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pathSchemes are those of flake references whose path may be relative.
var pathSchemes = []string{"path", "git+file", "hg+file", "file", "tarball+file", "file+file"}

// AbsoluteFlake makes a reference that is a relative path, or has one, absolute:
// updates are made from other directories.
func AbsoluteFlake(ref string) (string, error) {
	scheme, path, found := strings.Cut(ref, ":")
	if found && slices.Contains(pathSchemes, scheme) {
		scheme += ":"
	} else {
		scheme, path = "", ref
	}
	path, query, asked := strings.Cut(path, "?")
	dot := path == "." || path == ".." || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../")
	// Without a scheme a word is a name in nix's registry.
	if strings.HasPrefix(path, "/") || scheme == "" && !dot {
		return ref, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find where flake %q is: %w; give an absolute path", ref, err)
	}
	path = filepath.Join(dir, path)
	if asked {
		path += "?" + query
	}
	return scheme + path, nil
}
