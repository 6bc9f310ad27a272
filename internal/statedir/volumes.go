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

// volumesName is the file of the VM's record that has the file system of each
// directory with an image, by its path.
const volumesName = "volumes"

// VolumesRecord is where that is kept, for people who want it forgotten.
func (v VM) VolumesRecord() string { return filepath.Join(v.recordDir(), volumesName) }

// RecordVolumes notes on which file system each image is, images being paths as in
// the plan. Where one is not there, what was known stays; where nothing was, its
// directory is noted if the hypervisors' user could make it there now, as the
// start that follows does. Root calls it before and after each run.
//
// A directory of a VM's is followed without links: what the hypervisor puts in
// the way is not looked at.
func (v VM) RecordVolumes(images []string) error {
	if err := v.checkRecord(); errors.Is(err, fs.ErrNotExist) {
		return nil // not installed by this program
	} else if err != nil {
		return err
	}
	before, err := v.recordedVolumes()
	if err != nil {
		before = nil // it is written anew
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
		return fmt.Errorf("note where the images of %s are: %w", v.Name, err)
	}
	for range recordAttempts {
		// An installation that tidies up takes what is written just now for a leftover.
		if err = writeFile(v.VolumesRecord(), append(data, '\n'), 0o644); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// imageDir is the directory of an image, a path as in the plan. It is the key of
// the record, so it must not depend on how the caller came here.
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

// fileSystemOf is the file system of dir where it has the image, or, if first,
// where that could be made there.
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

// openImageDir opens a directory to look at. Below the VMs' directories nothing is
// followed, be the state directory itself a link of root's.
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

// mayCreate says whether a start would make an image in the directory.
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
		return nil, fmt.Errorf("read where the images are: %w", err)
	}
	defer func() { _ = f.Close() }()
	out := map[string]mounts.FileSystem{}
	d := json.NewDecoder(f)
	if err := d.Decode(&out); err != nil {
		return nil, exit.WithHint(fmt.Errorf("read where the images are: %s: %w", v.VolumesRecord(), err), "remove it; it is made anew")
	}
	return out, nil
}

// FileSystemBefore is the file system that the directory of an image, a path as in
// the plan, was on; false where root noted none. It is read by the hypervisors'
// user.
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
