package statedir

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// removeTree removes what a hypervisor filled, however deep it is. It follows no
// link and no mount.
func removeTree(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = safepath.RemoveAll(parent, filepath.Base(path))
		safepath.Close(parent)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove %s: %w; something in it is mounted: unmount it, and run: microvm gc", path, err)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w; remove it by hand, or run again: microvm gc", path, err)
	}
	return nil
}
