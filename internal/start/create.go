package start

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/exit"
)

// fsNoCOW is FS_NOCOW_FL of linux/fs.h.
const fsNoCOW = 0x00800000

// create creates the image under a temporary name, and renames it once its file
// system is complete and on disk. The image is locked from the beginning, as
// another start may be creating the same one.
func (w *volumeWork) create() (err error) {
	how, known := fileSystems[w.v.FSType]
	if !known {
		return exit.WithHint(exit.Configf("unsupported file system type %q", w.v.FSType), "create the image manually and set autoCreate to false, or choose ext4")
	}
	mkfs, err := findTool(how.program, how.debianPackage)
	if err != nil {
		return err
	}
	tmp := beside(w.path, volumeTemp)
	im, err := w.openNew(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeExisting(tmp), im.file.Close())
		}
	}()
	noCopyOnWrite(im.file)
	if err := im.file.Truncate(int64(w.v.SizeMiB) * mib); err != nil {
		return explain(tmp, fmt.Errorf("resize the image to %d MiB: %w", w.v.SizeMiB, err))
	}
	args := append([]string{}, w.v.MkfsExtraArgs...)
	if w.v.Label != "" {
		args = append([]string{how.labelFlag, w.v.Label}, args...)
	}
	if err := run(mkfs, append(args, tmp)...); err != nil {
		return explain(tmp, err)
	}
	markRaw(im.file)
	if err := im.file.Sync(); err != nil {
		return explain(tmp, fmt.Errorf("sync the image: %w", err))
	}
	if err := putInPlace(tmp, w.path); err != nil {
		return err
	}
	im.path, w.image = w.path, im
	return syncDir(filepath.Dir(w.path))
}

// openNew opens tmp as an empty file, and locks it.
func (w *volumeWork) openNew(tmp string) (*image, error) {
	for range volumeAttempts {
		f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o660)
		switch {
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO), errors.Is(err, fs.ErrPermission) && exists(tmp):
			// Not a file that a start leaves behind, or another user's.
			if err := removeExisting(tmp); err != nil {
				return nil, cannotCreate(filepath.Dir(tmp), err)
			}
			continue
		case err != nil:
			return nil, cannotCreate(filepath.Dir(tmp), err)
		}
		im, err := w.lockNew(f)
		if err == nil {
			return im, nil
		}
		_ = f.Close()
		if !errors.Is(err, errReplaced) || exists(w.path) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s keeps being replaced", tmp)
}

// lockNew locks f, and empties it where an interrupted start left data. It fails
// where another start, still running, has locked it.
func (w *volumeWork) lockNew(f *os.File) (*image, error) {
	im := &image{path: w.path, file: f, use: useOf(w.v), keep: w.v.KeepLock, exclusive: true}
	err := setLock(f, unix.F_WRLCK, 0, 0)
	if errors.Is(err, errBusy) {
		return nil, fmt.Errorf("another start is creating %s", w.path)
	}
	if err != nil {
		w.warnUnlocked(err)
		im.unlockable = true
	}
	ours, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("create the image: %w", err)
	}
	now, err := os.Lstat(f.Name())
	if err != nil || !os.SameFile(ours, now) {
		return nil, errReplaced
	}
	// A file with a second name must not be emptied: its data is in use.
	if st, ok := ours.Sys().(*syscall.Stat_t); !ok || st.Nlink > 1 || !ours.Mode().IsRegular() {
		return nil, errors.Join(errReplaced, removeExisting(f.Name()))
	}
	if exists(w.path) { // another start was faster
		return nil, errors.Join(errReplaced, removeExisting(f.Name()))
	}
	if err := f.Truncate(0); err != nil {
		return nil, explain(f.Name(), fmt.Errorf("create the image: %w", err))
	}
	return im, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func removeExisting(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the file of an interrupted start: %w", err)
	}
	return nil
}

// putInPlace renames tmp to path, and returns errReplaced where path exists. It
// falls back to a hard link, as not every network file system has RENAME_NOREPLACE.
func putInPlace(tmp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err = unix.Link(tmp, path); err == nil {
			err = os.Remove(tmp)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return errReplaced
	}
	if err != nil {
		return fmt.Errorf("rename the new image: %w", err)
	}
	return nil
}

// cannotCreate explains, with a hint, an error that creating an image in dir met.
func cannotCreate(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return exit.WithHint(exit.Configf("create the image: %w", err), "make %s writable for the hypervisors' user", dir)
	case errors.Is(err, fs.ErrNotExist):
		// It may be on a disk that is not mounted yet.
		return exit.WithHint(fmt.Errorf("create the image: %w", err),
			"create the directory %s, writable for the hypervisors' user, or mount its disk", dir)
	}
	return explain(filepath.Join(dir, "x"), fmt.Errorf("create the image: %w", err))
}

// explain adds a hint to err where the file system of path is full, or refuses a
// file of that size. A full file system is also looked for, as programs do not
// report it by their exit code. A nil err stays nil.
func explain(path string, err error) error {
	dir := filepath.Dir(path)
	var st unix.Statfs_t
	full := unix.Statfs(dir, &st) == nil && st.Bavail*uint64(max(st.Bsize, 1)) < mib
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EDQUOT):
		return exit.WithHint(err, "raise the quota of the hypervisors' user on the file system of %s", dir)
	case errors.Is(err, unix.EFBIG):
		return exit.WithHint(exit.Config(err), "put the image elsewhere, or raise LimitFSIZE= of the unit: no file of that size is allowed in %s", dir)
	case errors.Is(err, unix.ENOSPC), full:
		return exit.WithHint(err, "free some space on the file system of %s", dir)
	}
	return err
}

// syncDir makes a rename in dir survive a power failure.
func syncDir(dir string) error {
	err := durable.Dir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil // dir is writable but not readable; the file system syncs it later
	}
	return err
}

// noCopyOnWrite turns off copy-on-write (btrfs), which would fragment the image.
// File systems without that flag refuse, which does no harm; ioctl_iflags(2).
func noCopyOnWrite(f *os.File) {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|fsNoCOW))
}
