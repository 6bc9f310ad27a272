package statedir

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// removeTree removes a directory that a hypervisor filled, at any depth. It follows no
// link and crosses no mount point.
func removeTree(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = safepath.RemoveAll(parent, filepath.Base(path))
		safepath.Close(parent)
	}
	if err == nil {
		return nil
	}
	hint := "remove it manually, or run: microvm gc"
	if errors.Is(err, unix.EBUSY) {
		hint = "unmount what is mounted in it, then run: microvm gc"
	}
	return exit.WithHint(fmt.Errorf("remove %s: %w", path, err), "%s", hint)
}
