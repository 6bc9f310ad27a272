package spec

import (
	"path/filepath"
	"slices"
	"strings"
)

// plainPaths cleans the paths of the VM's own directory, as the programs compare and
// open them: "./x" becomes "x". Paths with ".." stay as they are, and Validate refuses
// them, as they could lead anywhere through a link. The absolute path of a socket in the
// VM's directory becomes relative to it, as sockets are allowed only there.
func (s *Spec) plainPaths() {
	s.Socket = s.plainSocket(s.Socket)
	if s.Graphics.Socket != "" {
		s.Graphics.Socket = *s.plainSocket(Some(s.Graphics.Socket)).Value
	}
	for i := range s.Volumes {
		s.Volumes[i].Image = plain(s.Volumes[i].Image)
	}
	for i := range s.Shares {
		share := &s.Shares[i]
		share.Source = plain(share.Source)
		share.Socket = s.plainSocket(share.Socket)
	}
}

// plainSocket returns a socket's path relative to the VM's directory, if it is in there.
func (s *Spec) plainSocket(path Optional[string]) Optional[string] {
	if path.Value == nil {
		return path
	}
	out := plain(*path.Value)
	if filepath.IsAbs(out) && !goesUp(out) {
		out = s.inStateDir(out)
	}
	path.Value = &out
	return path
}

// plain cleans a relative path. It returns absolute ones and those with ".." unchanged.
func plain(path string) string {
	if path == "" || filepath.IsAbs(path) || goesUp(path) {
		return path
	}
	return filepath.Clean(path)
}

func goesUp(path string) bool { return slices.Contains(strings.Split(path, "/"), "..") }
