// Package mounts checks that a directory is on the expected file system: that the
// mount points that the host declares above it are mounted, and that its file
// system is the same as before.
//
// It works without privileges, in the mount namespace of a unit: it reads
// fstab(5), mount units (systemd.mount(5)) and proc_pid_mountinfo(5).
package mounts

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Table reads the mount points that a host declares and those that are mounted.
type Table struct {
	// Root is the host's root directory.
	Root string
	// MountInfo is the path of the mountinfo file.
	MountInfo string
}

// Host is the Table of this host.
var Host = Table{Root: "/", MountInfo: "/proc/self/mountinfo"}

// Point is a mount point that the host declares.
type Point struct {
	// Dir is the mount point, From the file that declares it.
	Dir, From string
}

// unitDirs are the directories in which systemd searches for units, in its order,
// systemd.unit(5). The vendor's mount units are mostly API file systems that are
// not always used, so they count only if another unit pulls them in.
var unitDirs = []struct {
	path   string
	vendor bool
}{
	{"etc/systemd/system.control", false},
	{"run/systemd/system.control", false},
	{"run/systemd/transient", false},
	{"run/systemd/generator.early", false},
	{"etc/systemd/system", false},
	{"run/systemd/system", false},
	{"run/systemd/generator", false},
	{"usr/local/lib/systemd/system", true},
	{"usr/lib/systemd/system", true},
	{"lib/systemd/system", true},
	{"run/systemd/generator.late", false},
}

// Missing returns a declared mount point at or above path that is not mounted, or
// nil if all are. The path need not exist. Missing triggers automount points.
func (t Table) Missing(path string) (*Point, error) {
	existing, rest := path, ""
	dir, err := realDir(existing)
	for errors.Is(err, fs.ErrNotExist) && existing != "/" {
		rest = filepath.Join(filepath.Base(existing), rest)
		existing = filepath.Dir(existing)
		dir, err = realDir(existing)
	}
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, rest)
	declared, err := t.declared()
	if err != nil {
		return nil, err
	}
	above := slices.DeleteFunc(declared, func(p Point) bool {
		real := resolve(p.Dir)
		return real == "/" || real != dir && !strings.HasPrefix(dir, real+"/")
	})
	if len(above) == 0 {
		return nil, nil
	}
	// Opening the directory triggers an automount point.
	if f, err := os.OpenFile(existing, unix.O_DIRECTORY, 0); err == nil {
		_, _ = f.Readdirnames(1)
		_ = f.Close()
	}
	mounted, err := t.mounted()
	if err != nil {
		return nil, err
	}
	for _, p := range above {
		if !mounted[resolve(p.Dir)] {
			return &p, nil
		}
	}
	return nil, nil
}

// realDir returns the path of a directory without symbolic links. It needs no
// permission to read the directories above.
func realDir(dir string) (string, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", fmt.Errorf("find mount points above %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", fmt.Errorf("find mount points above %s: %w", dir, err)
	}
	return path, nil
}

// resolve follows the symbolic links of a declared mount point, as systemd does. A
// path that does not exist is returned as it is.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// declared returns the mount points of fstab and of mount units.
func (t Table) declared() ([]Point, error) {
	out, err := t.fstab()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, d := range unitDirs {
		dir := filepath.Join(t.Root, d.path)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it does not exist, or this user may not read it
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasSuffix(name, ".mount") || seen[name] || strings.Contains(name, "@") {
				continue
			}
			seen[name] = true
			if d.vendor && !t.wanted(name) {
				continue
			}
			if where := whereOf(filepath.Join(dir, name)); where != "" {
				out = append(out, Point{Dir: where, From: filepath.Join(dir, name)})
			}
		}
	}
	return out, nil
}

// wanted reports whether a unit is pulled in by a link in another's .wants or
// .requires directory.
func (t Table) wanted(name string) bool {
	for _, d := range unitDirs {
		for _, kind := range []string{"*.wants", "*.requires"} {
			if found, _ := filepath.Glob(filepath.Join(t.Root, d.path, kind, name)); len(found) > 0 {
				return true
			}
		}
	}
	return false
}

// fstab returns the mount points of fstab(5), including those with noauto: a disk
// that is mounted manually is the first to be forgotten.
func (t Table) fstab() ([]Point, error) {
	path := filepath.Join(t.Root, "etc/fstab")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read mount points: %w", err)
	}
	defer func() { _ = f.Close() }()
	var out []Point
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") || fields[2] == "swap" {
			continue
		}
		if dir := Unescape(fields[1]); filepath.IsAbs(dir) {
			out = append(out, Point{Dir: filepath.Clean(dir), From: path})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mount points from %s: %w", path, err)
	}
	return out, nil
}

// whereOf returns the mount point of a unit file, "" if the unit is masked or has
// none.
func whereOf(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	where := ""
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "Where" {
			where = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	if !filepath.IsAbs(where) {
		return ""
	}
	return filepath.Clean(where)
}

// Mount is one mounted file system.
type Mount struct {
	// Dir is the mount point, Type the file system's type, such as ext4.
	Dir, Type string
}

// mounted returns the directories on which a file system is mounted. An automount
// point that has not been triggered is not among them.
func (t Table) mounted() (map[string]bool, error) {
	all, err := t.Mounts()
	out := map[string]bool{}
	for _, m := range all {
		if m.Type != "autofs" {
			out[m.Dir] = true
		}
	}
	return out, err
}

// Mounts returns the mounted file systems.
func (t Table) Mounts() ([]Mount, error) {
	f, err := os.Open(t.MountInfo)
	if err != nil {
		return nil, fmt.Errorf("read mounted file systems: %w", err)
	}
	defer func() { _ = f.Close() }()
	var out []Mount
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		const where = 4 // the fifth field
		fields := strings.Fields(lines.Text())
		dash := slices.Index(fields, "-")
		if len(fields) <= where || dash < 0 || dash+1 >= len(fields) {
			continue
		}
		out = append(out, Mount{Dir: Unescape(fields[where]), Type: fields[dash+1]})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mounted file systems from %s: %w", t.MountInfo, err)
	}
	return out, nil
}

// Unescape replaces \ and three octal digits by the byte, as in fstab(5) and
// mountinfo.
func Unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
