package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/mounts"
	"microvm/internal/safepath"
)

// volumesName is the file of the VM's record with the file systems of the directories
// of images, by their paths.
const volumesName = "volumes"

// VolumesRecord returns the path of the record of file systems, for messages.
func (v VM) VolumesRecord() string { return filepath.Join(v.recordDir(), volumesName) }

// RecordVolumes records on which file system each image is. images are paths as in the
// plan. If an image does not exist, an earlier record of its directory remains; without
// one, the directory is recorded if the hypervisors' user could create the image there
// now, as the start that follows does. Root calls it before and after each run.
//
// Below a VM's directory no links are followed, as the hypervisor could have created
// them.
func (v VM) RecordVolumes(images []string) error {
	if err := v.checkRecord(); errors.Is(err, fs.ErrNotExist) {
		return nil // not installed by this program
	} else if err != nil {
		return err
	}
	before, err := v.recordedVolumes()
	if err != nil {
		before = nil // it is written again
	}
	now := map[string]mounts.FileSystem{}
	for _, image := range images {
		dir := v.imageDir(image)
		if had, ok := before[dir]; ok && now[dir] == (mounts.FileSystem{}) {
			now[dir] = had
		}
		if have, ok := v.fileSystemOf(dir, filepath.Base(image), now[dir] == (mounts.FileSystem{})); ok {
			now[dir] = have
		}
	}
	if same(before, now) {
		return nil
	}
	if len(now) == 0 {
		return os.Remove(v.VolumesRecord())
	}
	data, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("record file systems of %s: %w", v.Name, err)
	}
	for range recordAttempts {
		// An installation may remove the temporary file as a leftover meanwhile.
		if err = writeFile(v.VolumesRecord(), append(data, '\n'), 0o644); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// imageDir returns the directory of an image, whose path is as in the plan. It is the
// key in the record, so it must not depend on the working directory.
func (v VM) imageDir(image string) string {
	if filepath.IsAbs(image) {
		return filepath.Dir(image)
	}
	return filepath.Dir(filepath.Join(v.Dir(), image))
}

func same(a, b map[string]mounts.FileSystem) bool {
	if len(a) != len(b) {
		return false
	}
	for dir, one := range a {
		if other, ok := b[dir]; !ok || one != other {
			return false
		}
	}
	return true
}

// fileSystemOf returns the file system of dir if the image exists there or, if first is
// set, if a start could create it there.
func (v VM) fileSystemOf(dir, image string, first bool) (mounts.FileSystem, bool) {
	fd, err := v.openImageDir(dir)
	if err != nil {
		return mounts.FileSystem{}, false
	}
	f := os.NewFile(uintptr(fd), dir)
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	err = unix.Fstatat(fd, image, &st, unix.AT_SYMLINK_NOFOLLOW)
	there := err == nil && (st.Mode&unix.S_IFMT == unix.S_IFREG)
	if !there && !(first && errors.Is(err, unix.ENOENT) && v.mayCreate(fd, dir)) {
		return mounts.FileSystem{}, false
	}
	out, err := mounts.OfFile(f)
	return out, err == nil
}

// openImageDir returns a handle of a directory. Below the state directory it follows no
// links; the state directory itself may be a link that root owns.
func (v VM) openImageDir(dir string) (int, error) {
	rel, err := filepath.Rel(v.Host.StateDir, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	base, err := v.Host.RealStateDir()
	if err != nil {
		return -1, err
	}
	at, err := safepath.OpenDir(base)
	if err != nil {
		return -1, err
	}
	defer safepath.Close(at)
	return safepath.OpenDirBeneath(at, rel)
}

// mayCreate reports whether a start could create an image in the directory.
func (v VM) mayCreate(fd int, dir string) bool {
	a, err := v.Host.Account()
	var st unix.Stat_t
	if err != nil || unix.Fstat(fd, &st) != nil {
		return false
	}
	const owner, group, other = 0o200, 0o020, 0o002
	if !(int(st.Uid) == a.UID && st.Mode&owner != 0 || int(st.Gid) == a.GID && st.Mode&group != 0 || st.Mode&other != 0) {
		return false
	}
	missing, err := mounts.Host.Missing(dir)
	return err == nil && missing == nil
}

func (v VM) recordedVolumes() (map[string]mounts.FileSystem, error) {
	f, err := os.OpenFile(v.VolumesRecord(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of file systems: %w", err)
	}
	defer func() { _ = f.Close() }()
	out := map[string]mounts.FileSystem{}
	d := json.NewDecoder(f)
	if err := d.Decode(&out); err != nil {
		err = fmt.Errorf("read record of file systems %s: %w", v.VolumesRecord(), err)
		return nil, exit.WithHint(err, "remove the file; it is written again at the next start")
	}
	return out, nil
}

// FileSystemBefore returns the recorded file system of the directory of an image, whose
// path is as in the plan, and false if none is recorded. The hypervisors' user calls it.
func (v VM) FileSystemBefore(image string) (mounts.FileSystem, bool, error) {
	if err := v.checkRecord(); errors.Is(err, fs.ErrNotExist) {
		return mounts.FileSystem{}, false, nil
	} else if err != nil {
		return mounts.FileSystem{}, false, err
	}
	all, err := v.recordedVolumes()
	fsys, ok := all[v.imageDir(image)]
	return fsys, ok, err
}
