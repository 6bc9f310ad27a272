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

// lostAndFound is what a file system of the ext family keeps in its root.
const lostAndFound = "lost+found"

// Mounted says whether the VM's directory is a mount point of its own, statx(2).
func (v VM) Mounted() bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, v.Dir(), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// vacant says whether the VM's directory is an empty mount, of which a removal
// cannot remove more: there is no VM.
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

// removeMounted removes a VM whose directory is a mount, and leaves that empty.
func (v VM) removeMounted(ctx context.Context, reload func(context.Context) error) error {
	// What is in it moves aside while the lock is held: a VM of that name may be
	// made from then on. A crash leaves data, which the next removal removes.
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
		// The mount point is the host's again.
		return errors.Join(os.Chown(v.Dir(), 0, 0), os.Chmod(v.Dir(), mode.Public))
	})
	if err != nil {
		return err
	}
	// Without the lock: its hypervisor decided how long it takes.
	return removeTree(doomed)
}

// moveAll moves what is in dir into a directory of it.
func moveAll(dir, into string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		moved := false
		names, err := f.Readdirnames(mostNames)
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
		// What moves meanwhile may hide others from the reader.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// noMountsBelow refuses a directory in which something else is mounted, before
// anything of it is removed: proc_pid_mountinfo(5).
func (v VM) noMountsBelow() error {
	top, err := v.Host.RealStateDir()
	if err != nil {
		return err
	}
	all, err := mounts.Host.Mounts()
	if err != nil {
		return fmt.Errorf("look for mounts below %s: %w", v.Dir(), err)
	}
	for _, m := range all {
		if _, ok := below(filepath.Join(top, v.Name), m.Dir); ok {
			return exit.WithHint(fmt.Errorf("%s is mounted in the directory of VM %s; nothing was removed", m.Dir, v.Name),
				"run: umount %s; and remove the VM again", m.Dir)
		}
	}
	return nil
}
