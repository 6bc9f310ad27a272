package hypervisor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// JailPrograms are the directories of the host's programs and their libraries,
// which every jail has: world-readable, and without anything of a VM's or of a
// person's.
var JailPrograms = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store"}

// firecrackerJail collects the host's files for a VM that is to have a root of
// its own; the faults are about what could not be seen there.
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

// jailer collects files.
type jailer struct {
	readOnly, writable map[string]bool
	faults             spec.Faults
}

// file adds an absolute path to one of the two sets. A relative one is in the
// state directory.
func (j *jailer) file(field, path string, to map[string]bool) {
	if !filepath.IsAbs(path) {
		return
	}
	if err := spec.ValidateJailPath(path); err != nil {
		j.faults.Addf(field, "%v, or firecracker.jailer = false", err)
		return
	}
	if !inJailPrograms(path) {
		to[path] = true
	}
}

// readsIf is for what may be a name that is looked up in PATH.
func (j *jailer) readsIf(field, path string) { j.file(field, path, j.readOnly) }

func (j *jailer) volume(field string, v spec.Volume) {
	switch {
	case v.ReadOnly:
		j.file(field+"image", v.Image, j.readOnly)
	case filepath.IsAbs(v.Image) && *v.AutoCreate:
		j.faults.Addf(field+"autoCreate", "a jailed VM can create images in its state directory only; write image as a relative path, or create %s yourself and set autoCreate to false", v.Image)
	default:
		j.file(field+"image", v.Image, j.writable)
	}
}

// word refuses an argument that names a file which is not in the jail.
func (j *jailer) word(field, word string) {
	_, value, found := strings.Cut(word, "=")
	if !found {
		value = word
	}
	j.inside(field, value)
}

func (j *jailer) inside(field, path string) {
	if filepath.IsAbs(path) && !inJailPrograms(filepath.Clean(path)) {
		j.faults.Addf(field, "%s is not in a jailed VM's root; write a path relative to the state directory", path)
	}
}

// config finds the paths in settings of Firecracker's: fields of its
// firecracker.yaml.
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
