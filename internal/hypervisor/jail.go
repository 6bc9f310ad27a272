package hypervisor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// JailPrograms are the directories of the host's programs and libraries, which every jail
// has. They are world-readable, and contain no data of VMs or users.
var JailPrograms = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store"}

// firecrackerJail returns the host's files that a VM needs in its own root directory, and
// faults for those that cannot be there.
func firecrackerJail(s *spec.Spec) (*Jail, spec.Faults) {
	j := &jailer{readOnly: map[string]bool{}, writable: map[string]bool{}}
	j.readsIf("firecracker.package", programOf(s.Firecracker.Package, "firecracker", "firecracker"))
	j.readsIf("extraArgsScript", deref(s.ExtraArgsScript))
	for _, f := range files(s) {
		j.file(f.Role, f.Path, j.readOnly)
	}
	for i, v := range s.Volumes {
		j.volume(fmt.Sprintf("volumes[%d].", i), v)
	}
	for i, word := range s.Firecracker.ExtraArgs {
		j.word(fmt.Sprintf("firecracker.extraArgs[%d]", i), word)
	}
	j.config("firecracker.extraConfig", s.Firecracker.ExtraConfig)
	return &Jail{ReadOnly: slices.Sorted(maps.Keys(j.readOnly)), Writable: slices.Sorted(maps.Keys(j.writable))}, j.faults
}

// jailer collects the files of a jail.
type jailer struct {
	readOnly, writable map[string]bool
	faults             spec.Faults
}

// file adds an absolute path to one of the two sets. Relative ones are in the state
// directory, which every jail has.
func (j *jailer) file(field, path string, to map[string]bool) {
	if !filepath.IsAbs(path) {
		return
	}
	if err := spec.ValidateJailPath(path); err != nil {
		j.faults.Add(field, err)
		if f := &j.faults[len(j.faults)-1]; f.Remedy != "" {
			f.Hintf("%s, or set firecracker.jailer to false", f.Remedy)
		} else {
			f.Hintf("set firecracker.jailer to false")
		}
		return
	}
	if !inJailPrograms(path) {
		to[path] = true
	}
}

// readsIf adds path to the read-only files, unless it is a name that is looked up in PATH.
func (j *jailer) readsIf(field, path string) { j.file(field, path, j.readOnly) }

func (j *jailer) volume(field string, v spec.Volume) {
	switch {
	case v.ReadOnly:
		j.file(field+"image", v.Image, j.readOnly)
	case filepath.IsAbs(v.Image) && *v.AutoCreate:
		j.faults.Addf(field+"autoCreate", "a jailed VM can create images only in its state directory").
			Hintf("set image to a relative path, or create %s yourself and set autoCreate to false", v.Image)
	default:
		j.file(field+"image", v.Image, j.writable)
	}
}

// word refuses an argument that names a file outside the jail.
func (j *jailer) word(field, word string) {
	_, value, found := strings.Cut(word, "=")
	if !found {
		value = word
	}
	j.inside(field, value)
}

func (j *jailer) inside(field, path string) {
	if filepath.IsAbs(path) && !inJailPrograms(filepath.Clean(path)) {
		j.faults.Addf(field, "%s does not exist in a jailed VM's root directory", path).
			Hintf("use a path relative to the state directory")
	}
}

// config adds or checks the paths in settings of Firecracker, by the names of the fields
// in its firecracker.yaml.
func (j *jailer) config(field string, value any) {
	switch v := value.(type) {
	case []any:
		for i, inner := range v {
			j.config(fmt.Sprintf("%s[%d]", field, i), inner)
		}
	case object:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			path, _ := v[key].(string)
			at := field + "." + key
			switch {
			case key == "path_on_host" && (v["is_read_only"] == true || v["read_only"] == true):
				j.file(at, path, j.readOnly)
			case key == "path_on_host":
				j.file(at, path, j.writable)
			case slices.Contains([]string{"kernel_image_path", "initrd_path", "cpu-config"}, key):
				j.file(at, path, j.readOnly)
			case key == "socket", strings.HasSuffix(key, "_path"):
				j.inside(at, path)
			default:
				j.config(at, v[key])
			}
		}
	}
}

func inJailPrograms(path string) bool {
	return slices.ContainsFunc(JailPrograms, func(dir string) bool { return strings.HasPrefix(path, dir+"/") })
}
