package unit

import (
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

// viewText lets a VM's unit see what its VM uses of the state directory outside of
// its own directory, which is all that it sees otherwise: the directories of images,
// which hypervisors make and replace, and shares and other files themselves. Where a
// link leads is seen as well, if only root can change the link: the hypervisors' user
// could lead one to the disks of another VM.
func viewText(plan *hypervisor.Plan, f Facts) string {
	if plan.Jail != nil {
		return "" // which has a view of its own
	}
	itself := func(path string) string { return path }
	// The state directory itself is everybody's.
	directory := func(path string) string {
		if dir := filepath.Dir(path); dir != f.StateDir {
			return dir
		}
		return path
	}
	var writable, readOnly view
	for _, volume := range plan.Volumes {
		writable.add(f, volume.Image, directory)
	}
	for _, share := range plan.NinePShares {
		writable.add(f, share.Source, itself)
	}
	for _, file := range plan.Files {
		readOnly.add(f, file.Path, itself)
	}
	var b strings.Builder
	for _, p := range writable {
		b.WriteString("BindPaths=-" + p + "\n")
	}
	for _, p := range readOnly {
		b.WriteString("BindReadOnlyPaths=-" + p + "\n")
	}
	if b.Len() == 0 {
		return ""
	}
	return "# Made by install-microvm: what this VM uses of the state directory beside its own\n# directory.\n[Service]\n" + b.String()
}

// view are paths that a unit is to see.
type view []string

// add adds what is to be seen of a path, if it is in the state directory and no
// other VM's or root's.
func (v *view) add(f Facts, path string, seen func(string) string) {
	if path == "" {
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(f.dir(), path)
	}
	path = filepath.Clean(path)
	seenAs := []string{path}
	// A link in the VM's directory is nobody's word, whoever owns it.
	if _, own := below(f.dir(), path); !own {
		seenAs = append(seenAs, behind(f.Behind, path))
	}
	for _, p := range seenAs {
		p = seen(p)
		// What systemd cannot be told stays hidden, and is missed by the start.
		if f.Elsewhere(p) && !slices.Contains(*v, p) && spec.ValidateJailPath(p) == nil {
			*v = append(*v, p)
		}
	}
}

// Elsewhere reports whether path is below the state directory, outside of the VM's
// own directory and of what root keeps there.
func (f Facts) Elsewhere(path string) bool {
	rel, ok := below(f.StateDir, path)
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rel, "/")
	return first != f.VM && !slices.Contains(f.Reserved, first)
}

// below returns the path of what is below dir, relative to it.
func below(dir, path string) (string, bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && rel != "." && filepath.IsLocal(rel)
}
