package virtiofsd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mountShare puts the source directory, which is held open, at the path where,
// in a mount namespace that the calling thread gets for itself. The thread has
// to be locked and never unlocked; the programs it starts inherit the
// namespace, and with the last of them it is gone.
//
// virtiofsd wants a path, and one that works after it has covered /proc, so
// /proc/self/fd/N will not do: this mount is how an open directory gets a name
// that nobody can bend.
func mountShare(source int, where string, readOnly, confined bool) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// Slave: what is mounted below the source later reaches the guest, and
	// nothing that is mounted here reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	// Opened anew in this namespace: a handle from another one cannot be cloned.
	here, err := reopen(source)
	if err != nil {
		return fmt.Errorf("open the source again: %w", err)
	}
	defer closeFD(here)
	clone, err := unix.OpenTree(here, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone the source's mount: %w", err)
	}
	defer closeFD(clone)
	attr := unix.MountAttr{}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if confined {
		attr.Attr_set |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("restrict the mount: %w", err)
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, where, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the source at %q: %w", where, err)
	}
	return nil
}
