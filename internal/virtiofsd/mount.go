package virtiofsd

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
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
	// Cloned before the thread leaves the host's namespace, because a handle
	// from another namespace cannot be cloned.
	clone, err := cloneMount(source, readOnly, confined)
	if err != nil {
		return err
	}
	defer safepath.Close(clone)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, where, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the source at %q: %w", where, err)
	}
	return nil
}

// cloneMount returns a detached mount of the open directory and of what is
// mounted below it, mount_setattr(2). It is a slave of the host's: what is
// mounted there later reaches the guest, and nothing goes the other way. The
// attributes are set before anybody can see the mount.
func cloneMount(source int, readOnly, confined bool) (int, error) {
	clone, err := unix.OpenTree(source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("clone the source's mount: %w", err)
	}
	attr := unix.MountAttr{Propagation: unix.MS_SLAVE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if confined {
		attr.Attr_set |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		safepath.Close(clone)
		return -1, fmt.Errorf("restrict the source's mount: %w", err)
	}
	return clone, nil
}
