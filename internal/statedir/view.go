package statedir

import (
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/rootlock"
	"microvm/internal/spec"
)

// viewName is the drop-in that lets a VM's unit see what its VM uses of the state
// directory outside of its own directory, which is all that it sees otherwise.
const viewName = "50-view.conf"

// viewDropIn is its text: the directories of images, which hypervisors make and
// replace, and shares and other files themselves. It is empty where there are none.
// Where a link leads is seen as well, if only root can change the link: the
// hypervisors' user could lead one to the disks of another VM.
func (v VM) viewDropIn(plan *hypervisor.Plan) string {
	if plan.Jail != nil {
		return "" // which has a view of its own
	}
	var writable, readOnly []string
	add := func(to *[]string, path string, seen func(string) string) {
		if path == "" {
			return
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(v.Dir(), path)
		}
		path = filepath.Clean(path)
		seenAs := []string{path}
		// A link in the VM's directory is nobody's word, whoever owns it.
		if _, own := below(v.Dir(), path); !own {
			seenAs = append(seenAs, behindLinks(path, nil))
		}
		for _, p := range seenAs {
			p = seen(p)
			// What systemd cannot be told stays hidden, and is missed by the start.
			if v.elsewhere(p) && !slices.Contains(*to, p) && spec.ValidateJailPath(p) == nil {
				*to = append(*to, p)
			}
		}
	}
	itself := func(path string) string { return path }
	// The state directory itself is everybody's.
	directory := func(path string) string {
		if dir := filepath.Dir(path); dir != v.Host.StateDir {
			return dir
		}
		return path
	}
	for _, volume := range plan.Volumes {
		add(&writable, volume.Image, directory)
	}
	for _, share := range plan.NinePShares {
		add(&writable, share.Source, itself)
	}
	for _, f := range plan.Files {
		add(&readOnly, f.Path, itself)
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

// elsewhere says whether path is below the state directory, outside of the VM's own
// directory and of what root keeps there.
func (v VM) elsewhere(path string) bool {
	rel, ok := below(v.Host.StateDir, path)
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rel, "/")
	return !slices.Contains([]string{v.Name, storeName, originName, rootlock.Name}, first)
}
