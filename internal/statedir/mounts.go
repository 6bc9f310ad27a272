package statedir

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/unit"

	"microvm/internal/hypervisor"
	"microvm/internal/mounts"
	"microvm/internal/safepath"
)

// mountsName is the drop-in that orders a unit after the file systems of what its
// VM uses.
const mountsName = "50-mounts.conf"

const (
	// wantsMountsFor is the systemd that has WantsMountsFor=, systemd.unit(5).
	wantsMountsFor = 256
	// maxUnitName is the longest name of a unit, systemd.unit(5).
	maxUnitName = 255
)

// mountDropIns are the texts of the drop-ins of the VM's unit and of that of its
// virtiofs shares, empty where they need none. The mounts are wanted, never
// required: a start that failed for a required mount is not tried again, and one
// that found a file missing is.
func (v VM) mountDropIns(plan *hypervisor.Plan) (vm, shares string) {
	var system int
	if v.Host.SystemdVersion != nil {
		system = v.Host.SystemdVersion()
	}
	return mountDropIn(system, v.mountPaths(system, filesOf(plan))), mountDropIn(system, v.mountPaths(system, sharesOf(plan)))
}

// filesOf are the host's files and directories that the hypervisor uses.
func filesOf(plan *hypervisor.Plan) []string {
	var out []string
	for _, f := range plan.Files {
		out = append(out, f.Path)
	}
	for _, volume := range plan.Volumes {
		out = append(out, volume.Image)
	}
	for _, share := range plan.NinePShares {
		out = append(out, share.Source)
	}
	if plan.Jail != nil {
		out = append(out, plan.Jail.ReadOnly...)
		out = append(out, plan.Jail.Writable...)
	}
	for _, c := range []*hypervisor.Control{plan.Shutdown.Control, plan.Readiness.Control, plan.Balloon} {
		if c != nil && filepath.IsAbs(c.Program) {
			out = append(out, c.Program)
		}
	}
	// A name without a directory is looked up in PATH, and a script may be a
	// command with arguments.
	if !plan.Foreign && len(plan.Argv) > 0 && filepath.IsAbs(plan.Argv[0]) {
		out = append(out, plan.Argv[0])
	}
	if filepath.IsAbs(plan.ExtraArgsScript) && !strings.ContainsAny(plan.ExtraArgsScript, " \t\n") {
		out = append(out, plan.ExtraArgsScript)
	}
	return out
}

// sharesOf are those that virtiofsd uses.
func sharesOf(plan *hypervisor.Plan) []string {
	var out []string
	for _, s := range plan.Shares {
		out = append(out, s.Source)
		if s.Virtiofsd != "" {
			out = append(out, s.Virtiofsd)
		}
	}
	return out
}

// mountPaths are the paths whose mounts a unit is to want: those of list, made
// absolute, and where links of root's lead from there. What needs no mount of its
// own is left out.
func (v VM) mountPaths(system int, list []string) []string {
	var out []string
	var remote map[string]bool
	add := func(path string) {
		if strings.HasPrefix(path, nixStore) {
			path = strings.TrimSuffix(nixStore, "/")
		}
		if !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	for _, path := range list {
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(v.Dir(), path)
		}
		path = filepath.Clean(path)
		switch {
		case strings.HasPrefix(path, "/dev/"), path == "/":
		case filepath.Dir(path) == v.Dir() && system >= wantsMountsFor:
			// What systemd makes of WorkingDirectory= is as good.
		case path == v.Host.StateDir, strings.HasPrefix(path, v.Host.StateDir+"/"):
			add(path) // a link in there may be the hypervisor's
		default:
			add(path)
			if remote == nil {
				remote = remoteMounts()
			}
			if target := behindLinks(path, remote); target != path {
				add(target)
			}
		}
	}
	slices.Sort(out)
	return out
}

// behindLinks is where path leads by links that only root can change. What is not
// there yet stays as it is written, and so does what is behind one of the mounts:
// a server that is down would hold this up.
func behindLinks(path string, remote map[string]bool) string {
	policy := safepath.ForTargets
	policy.Stop = func(path string) bool { return remote[path] }
	place, err := safepath.WalkTrusted(path, policy)
	if err != nil {
		return path
	}
	place.Close()
	return place.Path
}

// remoteMounts are the mount points of file systems that somebody else has to
// answer for. It is not nil.
func remoteMounts() map[string]bool {
	out := map[string]bool{}
	all, err := mounts.Host.Mounts()
	if err != nil {
		return out
	}
	for _, m := range all {
		if !localTypes[m.Type] {
			out[m.Dir] = true
		}
	}
	return out
}

// localTypes are the file systems that the kernel reads by itself, and which so
// many hosts have that it is worth to look for links in them.
var localTypes = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "f2fs": true, "bcachefs": true,
	"vfat": true, "tmpfs": true, "ramfs": true, "overlay": true, "squashfs": true, "erofs": true,
}

// mountDropIn is a drop-in that makes a unit want the mounts for paths, and come
// after them, in the words that a systemd of this version has; 0 is one that is
// not known.
func mountDropIn(system int, paths []string) string {
	var lines strings.Builder
	var units []string
	for _, path := range paths {
		if path = writable(path); path == "/" {
			continue
		}
		if system >= wantsMountsFor {
			lines.WriteString("WantsMountsFor=" + quoted(path) + "\n")
			continue
		}
		for _, name := range mountUnits(path) {
			if !slices.Contains(units, name) {
				units = append(units, name)
			}
		}
	}
	for _, name := range units {
		// A unit that there is not is no harm, and one that comes later counts.
		lines.WriteString("Wants=" + name + "\nAfter=" + name + "\n")
	}
	if lines.Len() == 0 {
		return ""
	}
	return "# Made by install-microvm: the file systems of what this VM uses, as far as\n# they are mounted by units.\n[Unit]\n" + lines.String()
}

// writable is path up to what cannot be written in a unit file: a newline, or what
// is no UTF-8. What a mount that is left out would hold is tried again until it
// is there.
func writable(path string) string {
	at := "/"
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return at
		}
		at = filepath.Join(at, name)
	}
	return at
}

// quoted is path as one word of a setting that takes a list of paths, in which
// backslashes stand for themselves; the percent sign begins a specifier,
// systemd.syntax(7) and systemd.unit(5).
func quoted(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	// A quote ends where it is in the path, and goes on in the other kind.
	return `"` + strings.ReplaceAll(path, `"`, `"'"'"`) + `"`
}

// mountUnits are the units that could mount path or what is above it.
func mountUnits(path string) []string {
	var out []string
	for ; path != "/"; path = filepath.Dir(path) {
		if name := unit.UnitNamePathEscape(path) + ".mount"; len(name) <= maxUnitName {
			out = append(out, name)
		}
	}
	slices.Reverse(out)
	return out
}
