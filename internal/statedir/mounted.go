package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/mode"
	"microvm/internal/mounts"
)

// lostAndFound is a directory in the root of ext file systems.
const lostAndFound = "lost+found"

// Mounted reports whether the VM's directory is a mount point, statx(2).
func (v VM) Mounted() bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, v.Dir(), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// vacant reports whether the VM's directory is an empty mount. That is all that a
// removal leaves of a VM, so it does not count as one.
func (v VM) vacant() bool {
	if v.Installed() || !v.Mounted() {
		return false
	}
	f, err := os.Open(v.Dir())
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for {
		names, err := f.Readdirnames(2)
		for _, name := range names {
			if name != lostAndFound {
				return false
			}
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// removeMounted removes a VM whose directory is a mount point, and leaves the directory
// empty.
func (v VM) removeMounted(ctx context.Context, reload func(context.Context) error) error {
	// The content is moved aside while the lock is held, as a VM of that name may be
	// created afterwards. A crash leaves data, which the next removal removes.
	doomed := tempName(filepath.Join(v.Dir(), "removed"))
	err := v.remove(ctx, reload, func() error {
		if err := v.noMountsBelow(); err != nil {
			return err
		}
		if err := mode.Dir(doomed, 0o700); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		if err := moveAll(v.Dir(), doomed); err != nil {
			return fmt.Errorf("remove %s: %w", v.Dir(), err)
		}
		// The hypervisors' group must not write in it any more.
		return errors.Join(os.Chown(v.Dir(), 0, 0), os.Chmod(v.Dir(), mode.Public))
	})
	if err != nil {
		return err
	}
	// Without the lock: how long it takes depends on what the hypervisor created.
	return removeTree(doomed)
}

// moveAll moves all entries of dir into its subdirectory into.
func moveAll(dir, into string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		moved := false
		names, err := f.Readdirnames(maxEntries)
		for _, name := range names {
			path := filepath.Join(dir, name)
			if path == into || name == lostAndFound {
				continue
			}
			if err := os.Rename(path, filepath.Join(into, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			moved = true
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		switch {
		case !moved && err != nil:
			return nil
		case !moved:
			continue
		}
		// Renames may make readdir(3) skip entries.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// noMountsBelow returns an error if a file system is mounted below the VM's directory,
// proc_pid_mountinfo(5). It is called before anything is removed.
func (v VM) noMountsBelow() error {
	top, err := v.Host.RealStateDir()
	if err != nil {
		return err
	}
	all, err := mounts.Host.Mounts()
	if err != nil {
		return fmt.Errorf("find mounts below %s: %w", v.Dir(), err)
	}
	for _, m := range all {
		if _, ok := below(filepath.Join(top, v.Name), m.Dir); ok {
			return exit.WithHint(fmt.Errorf("%s is mounted in the directory of VM %s; nothing was removed", m.Dir, v.Name),
				"run: umount %s; then remove the VM again", m.Dir)
		}
	}
	return nil
}
