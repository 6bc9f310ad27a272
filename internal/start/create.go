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

// create makes the image under a temporary name and renames it when its file
// system is complete and on disk. It is locked from the first moment on: another
// start may be making the same one.
func (w *volumeWork) create() (err error) {
	how, known := fileSystems[w.v.FSType]
	if !known {
		return exit.Configf("no way is known to make a file system of type %q; make the image yourself and set autoCreate to false, or choose ext4", w.v.FSType)
	}
	mkfs, err := findProgram(how.program)
	if err != nil {
		return exit.Configf("%s is not installed; on Debian it is in package %s", how.program, how.debianPackage)
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
		return explain(tmp, fmt.Errorf("make the image %d MiB large: %w", w.v.SizeMiB, err))
	}
	args := append([]string{}, w.v.MkfsExtraArgs...)
	if w.v.Label != "" {
		args = append([]string{how.labelFlag, w.v.Label}, args...)
	}
	if err := run(mkfs, append(args, tmp)...); err != nil {
		return explain(tmp, err)
	}
	sayRaw(im.file)
	if err := im.file.Sync(); err != nil {
		return explain(tmp, fmt.Errorf("write the image to disk: %w", err))
	}
	if err := putInPlace(tmp, w.path); err != nil {
		return err
	}
	im.path, w.image = w.path, im
	return syncDir(filepath.Dir(w.path))
}

// openNew opens and locks an empty file of that name.
func (w *volumeWork) openNew(tmp string) (*image, error) {
	for range volumeAttempts {
		f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o660)
		switch {
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO), errors.Is(err, fs.ErrPermission) && exists(tmp):
			// Not what a start leaves, or not of this user's.
			if err := removeExisting(tmp); err != nil {
				return nil, cannotMake(filepath.Dir(tmp), err)
			}
			continue
		case err != nil:
			return nil, cannotMake(filepath.Dir(tmp), err)
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
	return nil, fmt.Errorf("%s is replaced again and again; find out what does that", tmp)
}

// lockNew empties what an interrupted start left. A start that goes on has it
// locked.
func (w *volumeWork) lockNew(f *os.File) (*image, error) {
	im := &image{path: w.path, file: f, use: useOf(w.v), keep: w.v.KeepLock, exclusive: true}
	err := setLock(f, unix.F_WRLCK, 0, 0)
	if errors.Is(err, errBusy) {
		return nil, fmt.Errorf("another start is making %s just now", w.path)
	}
	if err != nil {
		w.logf("warning: cannot lock %s: %w; see that no other VM uses it", w.path, err)
		im.unlockable = true
	}
	ours, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	now, err := os.Lstat(f.Name())
	if err != nil || !os.SameFile(ours, now) {
		return nil, errReplaced
	}
	// One that has another name is somebody's: it is not to be emptied.
	if st, ok := ours.Sys().(*syscall.Stat_t); !ok || st.Nlink > 1 || !ours.Mode().IsRegular() {
		return nil, errors.Join(errReplaced, removeExisting(f.Name()))
	}
	if exists(w.path) { // somebody was faster
		return nil, errors.Join(errReplaced, removeExisting(f.Name()))
	}
	if err := f.Truncate(0); err != nil {
		return nil, explain(f.Name(), fmt.Errorf("make the image: %w", err))
	}
	return im, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func removeExisting(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what an interrupted start left: %w", err)
	}
	return nil
}

// putInPlace gives the image its name, never over one that somebody put there
// meanwhile. Not every network file system has the flag for that.
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
		return fmt.Errorf("put the image in place: %w", err)
	}
	return nil
}

// cannotMake says why an image cannot be made in dir, and what helps.
func cannotMake(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return exit.Configf("make the image: %w; the hypervisors' user has to be able to write to %s", err, dir)
	case errors.Is(err, fs.ErrNotExist):
		// It may be on a disk that is not mounted yet.
		return fmt.Errorf("make the image: %w; make the directory %s, writable for the hypervisors' user, or mount the disk it is on", err, dir)
	}
	return explain(filepath.Join(dir, "x"), fmt.Errorf("make the image: %w", err))
}

// explain adds what helps where there is no room for what was to be written to
// path. Programs do not say that by their exit code.
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
		return exit.WithHint(exit.Config(err), "the file system of %s, or LimitFSIZE= of the unit, allows no file of that size; put the image elsewhere", dir)
	case errors.Is(err, unix.ENOSPC), full:
		return exit.WithHint(err, "make room on the file system of %s, which is full", dir)
	}
	return err
}

// syncDir makes a rename in dir last over a power failure.
func syncDir(dir string) error {
	err := durable.Dir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil // it may be written and not be read; the file system does it in a while
	}
	return err
}

// noCopyOnWrite asks file systems that copy on write (btrfs) not to, which
// would fragment the image. Others refuse, and that is fine; ioctl_iflags(2).
func noCopyOnWrite(f *os.File) {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|fsNoCOW))
}
