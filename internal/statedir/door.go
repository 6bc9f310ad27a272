package statedir

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"microvm/internal/exit"
	"microvm/internal/runner"
	"microvm/internal/safepath"
)

// RealStateDir returns the state directory's path without links: root may have replaced
// it, or a directory above it, by a link to another disk. A link that another user can
// change is an error. Records and units contain StateDir nevertheless, so they remain
// valid if root moves the directory again.
func (h Host) RealStateDir() (string, error) {
	if !filepath.IsAbs(h.StateDir) {
		return h.StateDir, nil
	}
	place, err := safepath.WalkTrusted(h.StateDir, safepath.ForStateDir)
	const hint = "move the directory itself there, or remove the link and create it as root with: ln -s"
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign && !u.Dir:
		return "", exit.WithHint(fmt.Errorf("state directory %s: link %s is owned by uid %d, not by root", h.StateDir, u.Path, u.UID), hint)
	case errors.As(err, &u):
		return "", exit.WithHint(fmt.Errorf("state directory %s: non-root users can replace the link in %s", h.StateDir, u.Path), hint)
	case err != nil:
		return "", fmt.Errorf("state directory %s: %w", h.StateDir, err)
	}
	place.Close()
	return place.Path, nil
}

// openTrusted is runner.OpenTrusted, but the path of a package below the state
// directory begins with StateDir, whatever links lead there.
func (h Host) openTrusted(path string) (*runner.Package, error) {
	real, err := h.RealStateDir()
	if err != nil {
		return nil, err
	}
	if rel, ok := below(h.StateDir, path); ok {
		path = filepath.Join(real, rel)
	}
	p, err := runner.OpenTrusted(path)
	if err != nil {
		return nil, err
	}
	if rel, ok := below(real, p.Dir()); ok {
		p.SetDir(filepath.Join(h.StateDir, rel))
	}
	return p, nil
}

// below returns path relative to dir, and whether path is below dir.
func below(dir, path string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, "../")
}
