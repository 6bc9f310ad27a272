// Package mounts tells what is mounted, and what should be and is not yet.
package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

// Mount is one mounted file system.
type Mount struct {
	// Point is where it is mounted, Type what it is, such as ext4.
	Point, Type string
}

// Table is what is mounted in this process's mount namespace,
// proc_pid_mountinfo(5).
func Table() ([]Mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("see what is mounted: %w", err)
	}
	return parse(string(data)), nil
}

// octal are the characters that mountinfo writes in another way.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

func parse(text string) []Mount {
	const pointField = 4
	var out []Mount
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if len(place) > pointField && len(kind) > 0 {
			out = append(out, Mount{Point: octal.Replace(place[pointField]), Type: kind[0]})
		}
	}
	return out
}

// unitDirs are where units come from, systemd.unit(5); what is in fstab is in
// generator.
var unitDirs = []string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
	"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system", "/run/systemd/generator.late",
}

// Absent is the mount point, at the absolute path or above it, of a mount unit or
// a line of fstab that is not mounted now; empty where there is none. What is
// made at path meanwhile is on the wrong disk, and hidden once the right one is
// mounted.
func Absent(path string) (string, error) { return absent(path, unitDirs) }

func absent(path string, dirs []string) (string, error) {
	var points []string
	for p := filepath.Clean(path); p != "/" && p != "."; p = filepath.Dir(p) {
		if hasUnit(p, dirs) {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		return "", nil
	}
	table, err := Table()
	if err != nil {
		return "", err
	}
	mounted := map[string]bool{}
	for _, m := range table {
		mounted[m.Point] = true
	}
	for _, p := range points {
		if !mounted[p] {
			return p, nil
		}
	}
	return "", nil
}

// hasUnit says whether there is a mount unit for path that is not masked.
func hasUnit(path string, dirs []string) bool {
	name := unit.UnitNamePathEscape(path) + ".mount"
	for _, dir := range dirs {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		return info.Mode().IsRegular() && info.Size() > 0 // the first one counts
	}
	return false
}
