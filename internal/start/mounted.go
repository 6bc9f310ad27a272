package start

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"microvm/internal/exit"
	"microvm/internal/mounts"
)

// mayCreate returns an error if an image in dir would be created below an empty mount
// point: the disk that belongs there may have the real image. A later start may
// succeed.
func (w *volumeWork) mayCreate(dir string) error {
	missing, err := mounts.Host.Missing(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cannotCreate(dir, err)
	case err != nil:
		return fmt.Errorf("create the image: %w", err)
	case missing != nil:
		return exit.WithHint(fmt.Errorf("%s of %s is not mounted, so no image is created below it", missing.Dir, missing.From), "run: mount %s", missing.Dir)
	}
	return w.sameFileSystem(dir)
}

// sameFileSystem compares the directory's file system with the one that root recorded
// when an image was there. It finds disks that are neither in fstab nor in a mount
// unit, such as those of ZFS and LUKS.
func (w *volumeWork) sameFileSystem(dir string) error {
	if !hasState(w.vm) {
		return nil // run without units, and so without root's record
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
	return exit.WithHint(exit.WithHint(fmt.Errorf("%s is on %s now, but the VM's images were on %s: no image is created there", dir, now, before),
		"mount the disk that has the images"), "to create new images there, run: rm %s", w.vm.VolumesRecord())
}
