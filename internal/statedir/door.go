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

// RealStateDir is the state directory without links: it, or a directory above it,
// may be a link of root's to another disk. A link that somebody else could change
// is an error. Everything that is written down has StateDir all the same, as the
// units have it, and means the same if root moves the directory again.
func (h Host) RealStateDir() (string, error) {
	if !filepath.IsAbs(h.StateDir) {
		return h.StateDir, nil
	}
	place, err := safepath.WalkTrusted(h.StateDir, safepath.ForStateDir)
	const hint = "move the directory itself there, or remove the link and make it as root with: ln -s"
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign && !u.Dir:
		return "", exit.WithHint(fmt.Errorf("state directory %s: %s is a link of user %d, who could make it lead anywhere", h.StateDir, u.Path, u.UID), hint)
	case errors.As(err, &u):
		return "", exit.WithHint(fmt.Errorf("state directory %s: others than root could replace the link in %s", h.StateDir, u.Path), hint)
	case err != nil:
		return "", fmt.Errorf("state directory %s: %w", h.StateDir, err)
	}
	place.Close()
	return place.Path, nil
}

// openTrusted opens a package as runner.OpenTrusted does. Below the state directory
// it is known by StateDir, whatever links lead there.
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

// below is path from dir on, where it is below it.
func below(dir, path string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, "../")
}
