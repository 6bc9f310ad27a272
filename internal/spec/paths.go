package spec

import (
	"path/filepath"
	"slices"
	"strings"
)

// plainPaths writes the paths of the VM's own directory as the programs compare and
// open them: "./x" is "x". What goes up is for Validate to refuse, since a link could
// make it lead anywhere. A socket can be in that directory only, so a whole path that
// leads there is shortened.
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

// plainSocket is a socket's path in the VM's directory, where it is in there.
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

// plain is a relative path without what says nothing; an absolute one, and one that
// goes up, stay as they are.
func plain(path string) string {
	if path == "" || filepath.IsAbs(path) || goesUp(path) {
		return path
	}
	return filepath.Clean(path)
}

func goesUp(path string) bool { return slices.Contains(strings.Split(path, "/"), "..") }
