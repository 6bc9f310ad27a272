package start

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"microvm/internal/exit"
	"microvm/internal/mounts"
)

// mayCreate refuses to make an image where it would hide below a mount point: the
// disk that it belongs on may have the real one. That is tried again.
func (w *volumeWork) mayCreate(dir string) error {
	missing, err := mounts.Host.Missing(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cannotMake(dir, err)
	case err != nil:
		return fmt.Errorf("make the image: %w", err)
	case missing != nil:
		return exit.WithHint(fmt.Errorf("%s of %s is not mounted, so no image is made below it", missing.Dir, missing.From), "mount it: mount %s", missing.Dir)
	}
	return w.sameFileSystem(dir)
}

// sameFileSystem compares the directory's file system with the one that root noted
// when an image was there: that is for disks which stand neither in fstab nor in a
// mount unit, as those of ZFS and LUKS.
func (w *volumeWork) sameFileSystem(dir string) error {
	if !hasState(w.vm) {
		return nil // by hand, without root's record
	}
	before, known, err := w.vm.FileSystemBefore(w.v.Image)
	if err != nil || !known {
		return err
	}
	now, err := mounts.Of(dir)
	if err != nil {
		return err
	}
	if now.Same(before) {
		return nil
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return exit.WithHint(fmt.Errorf("%s is on %s now, and the VM's images were on %s; no image is made there", dir, now, before),
		"mount the disk that they are on; if they are to be here from now on: rm %s", w.vm.VolumesRecord())
}
