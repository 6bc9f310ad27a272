package virtiofsd

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// mountShare mounts the open directory source at the path where, in a new mount
// namespace of the calling thread. The goroutine must be locked to its thread and
// never unlocked. Programs that the thread starts inherit the namespace, which ends
// with the last of them.
//
// virtiofsd needs a path that still works after it has mounted its own /proc, so
// /proc/self/fd/N is not enough. The mount gives the open directory a path that
// no other process can redirect.
func mountShare(source int, where string, readOnly, confined bool) error {
	// This comes before unshare(2): a mount of another namespace cannot be cloned.
	clone, err := cloneMount(source, readOnly, confined)
	if err != nil {
		return err
	}
	defer safepath.Close(clone)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("create mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make / a slave mount: %w", err)
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, where, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount source at %q: %w", where, err)
	}
	return nil
}

// cloneMount returns a detached mount of the open directory source and of everything
// mounted below it; the caller closes it. It is a slave of the host's mount: later
// mounts propagate from the host to the guest, but not back. The attributes are set
// before the mount is visible to any process, mount_setattr(2).
func cloneMount(source int, readOnly, confined bool) (int, error) {
	clone, err := unix.OpenTree(source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("clone mount of source: %w", err)
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
		return -1, fmt.Errorf("set attributes of source's mount: %w", err)
	}
	return clone, nil
}
