package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// Names beside an image that say how far the work on it got, for the start
// after a crash: one that is not finished, and one whose file system may be
// smaller than the image.
const (
	volumeTemp    = ".microvm-new-"
	volumeGrowing = ".microvm-grow-"
)

const mib = 1 << 20

// fsNoCOW is FS_NOCOW_FL of linux/fs.h.
const fsNoCOW = 0x00800000

// fileSystem is how a file system is made and labelled.
type fileSystem struct {
	program, labelFlag, debianPackage string
}

var fileSystems = map[string]fileSystem{
	"ext2":  {"mkfs.ext2", "-L", "e2fsprogs"},
	"ext3":  {"mkfs.ext3", "-L", "e2fsprogs"},
	"ext4":  {"mkfs.ext4", "-L", "e2fsprogs"},
	"xfs":   {"mkfs.xfs", "-L", "xfsprogs"},
	"btrfs": {"mkfs.btrfs", "-L", "btrfs-progs"},
	"vfat":  {"mkfs.vfat", "-n", "dosfstools"},
}

// volumes opens and locks the images, makes those that are missing and grows
// those that are declared larger than they are. Nothing is done to one before it
// is locked. dir is the state directory. Paths are followed as the hypervisor's
// user, who may put links there: it can reach nothing by them that it cannot
// reach anyhow.
func (l *Launcher) volumes(dir string, plan *hypervisor.Plan) (*images, error) {
	held := &images{}
	for _, v := range plan.Volumes {
		path := v.Image
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		work := &volumeWork{l: l, dir: dir, hyp: plan.Hypervisor, path: path, v: v}
		err := work.notTwice(held)
		if err == nil {
			err = work.do()
		}
		if work.image != nil {
			held.list = append(held.list, work.image)
		}
		if err != nil {
			held.Close()
			return nil, fmt.Errorf("volume %s: %w", v.Image, err)
		}
	}
	return held, nil
}

// volumeWork is what is to be done about one volume.
type volumeWork struct {
	l *Launcher
	// dir is the state directory, hyp the hypervisor.
	dir, hyp, path string
	v              hypervisor.Volume
	// image is open, and locked, once it is there.
	image *image
}

// volumeAttempts is how often an image may be replaced while it is opened.
const volumeAttempts = 10

func (w *volumeWork) do() error {
	for range volumeAttempts {
		info, err := os.Stat(w.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = w.missing()
		case err == nil:
			err = w.existing(info)
		}
		if !errors.Is(err, errReplaced) {
			return err
		}
	}
	return fmt.Errorf("%s is replaced again and again; find out what does that", w.path)
}

// errReplaced is an image that is another file now, or that somebody made
// meanwhile.
var errReplaced = errors.New("replaced")

// notTwice refuses an image that is another volume of the VM as well, under
// another name: it could not lock it against itself.
func (w *volumeWork) notTwice(held *images) error {
	info, err := os.Stat(w.path)
	if err != nil {
		return nil // it is looked at again
	}
	for _, other := range held.list {
		have, err := other.file.Stat()
		alike := useOf(w.v) == other.use && other.use != alone
		if err == nil && os.SameFile(info, have) && !alike {
			return exit.WithHint(exit.Configf("%s and %s are the same file", w.path, other.path), "remove one of the two volumes")
		}
	}
	return nil
}

// missing makes an image that is not there. What may yet come, as a disk that is
// not mounted, is tried again.
func (w *volumeWork) missing() error {
	if target, linked := os.Readlink(w.path); linked == nil {
		// The disk it is on may not be mounted: no time for an empty image.
		return exit.WithHint(fmt.Errorf("%s is a link to %s, which does not exist, or which the VM's unit does not see", w.path, target),
			"mount the disk it is on, name %s itself as the image in the spec, or remove the link", target)
	}
	if !w.v.AutoCreate {
		return fmt.Errorf("the image %s does not exist and autoCreate is off; put it there, or turn autoCreate on", w.path)
	}
	if err := w.mayCreate(filepath.Dir(w.path)); err != nil {
		return err
	}
	w.l.logf("creating volume %s, %d MiB, %s", w.v.Image, w.v.SizeMiB, w.v.FSType)
	if err := w.create(); err != nil {
		return err
	}
	return w.settle()
}

// existing checks an image that is there, which is never formatted.
func (w *volumeWork) existing(info fs.FileInfo) error {
	mode := info.Mode()
	device := mode&fs.ModeDevice != 0 // a disk or a logical volume of the operator's
	if !device && !mode.IsRegular() {
		return exit.Configf("%s is a %s, not an image; remove it or name another image", w.path, fileKind(mode))
	}
	if mode&fs.ModeCharDevice != 0 {
		return w.usable(usable(w.path, w.v.ReadOnly))
	}
	if err := w.open(); err != nil {
		return err
	}
	if err := checkType(w.dir, w.hyp, w.image, w.v); err != nil {
		return err
	}
	if !device {
		if err := w.fit(); err != nil {
			return err
		}
	}
	return w.settle()
}

// usable adds what helps where an image cannot be opened.
func (w *volumeWork) usable(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return exit.Configf("%s: %w; let the hypervisors' user use it, or set readOnly where it only has to read", w.path, err)
	case errors.Is(err, fs.ErrNotExist):
		return errReplaced
	case err != nil:
		return fmt.Errorf("%s: %w", w.path, err)
	}
	return nil
}

// open opens and locks the image.
func (w *volumeWork) open() error {
	flag := os.O_RDWR
	if w.v.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(w.path, flag, 0)
	if err != nil {
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return w.usable(err)
	}
	im, err := w.lock(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.image = im
	return nil
}

// lock locks an open image, and says whether it is still the one of that name.
func (w *volumeWork) lock(f *os.File) (*image, error) {
	im := &image{path: w.path, file: f, use: useOf(w.v), keep: w.v.KeepLock}
	err := im.lock()
	switch {
	case errors.Is(err, errBusy):
		return nil, im.cannotLock(w.l.vm, err)
	case err != nil:
		// A network file system without locks, say. Hypervisors that lock do not
		// start then; the others have no other protection, either.
		w.l.logf("warning: cannot lock %s: %w; see that no other VM uses it", w.path, err)
		im.exclusive, im.unlockable = true, true
	}
	ours, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the image: %w", err)
	}
	if now, err := os.Stat(f.Name()); err != nil || !os.SameFile(ours, now) {
		return nil, errReplaced
	}
	return im, nil
}

// settle leaves the image to those who may share it.
func (w *volumeWork) settle() error {
	if w.image == nil || w.image.use == alone {
		return nil
	}
	if err := w.image.settle(); errors.Is(err, errBusy) {
		return w.image.cannotLock(w.l.vm, err)
	}
	return nil
}

// fit enlarges an image that is smaller than declared.
func (w *volumeWork) fit() error {
	size := int64(w.v.SizeMiB) * mib
	if !w.v.AutoCreate || w.v.ReadOnly || size == 0 {
		return nil
	}
	info, err := w.image.file.Stat()
	if err != nil {
		return fmt.Errorf("look at the image: %w", err)
	}
	if info.Size() > size {
		return exit.Configf("the image has %d MiB and %d are declared; shrinking would lose data: declare at least %d, or make a new image and copy",
			(info.Size()+mib-1)/mib, w.v.SizeMiB, (info.Size()+mib-1)/mib)
	}
	if info.Size() == size && w.growing() == "" {
		return nil
	}
	if !w.image.exclusive {
		w.l.logf("volume %s is to grow from %d to %d MiB, and another VM has it; it grows when that is down", w.v.Image, info.Size()/mib, w.v.SizeMiB)
		return nil
	}
	w.l.logf("growing volume %s from %d to %d MiB", w.v.Image, info.Size()/mib, w.v.SizeMiB)
	return w.grow(size)
}

// beside is the path of a name made from an image's, in the same directory.
func beside(path, prefix string) string {
	return filepath.Join(filepath.Dir(path), prefix+filepath.Base(path))
}

// usable says why the hypervisor could not open an image.
func usable(path string, readOnly bool) error {
	if readOnly {
		return unix.Access(path, unix.R_OK)
	}
	return unix.Access(path, unix.R_OK|unix.W_OK)
}

func fileKind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	}
	return "special file"
}

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
		w.l.logf("warning: cannot lock %s: %w; see that no other VM uses it", w.path, err)
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

// growing is the mark of a growth that was cut off, or "".
func (w *volumeWork) growing() string {
	for _, mark := range w.marks() {
		if exists(mark) {
			return mark
		}
	}
	return ""
}

// marks are where the mark of a growth may be: beside the image, or where that
// directory cannot be written, in the state directory.
func (w *volumeWork) marks() []string {
	abs, err := filepath.Abs(w.path)
	if err != nil {
		abs = w.path
	}
	sum := sha256.Sum256([]byte(abs))
	return []string{beside(w.path, volumeGrowing), filepath.Join(w.dir, volumeGrowing+hex.EncodeToString(sum[:8]))}
}

// mark leaves the mark of a growth.
func (w *volumeWork) mark() error {
	if w.growing() != "" {
		return nil
	}
	var errs error
	for _, mark := range w.marks() {
		err := os.WriteFile(mark, nil, 0o600)
		if err == nil {
			return syncDir(filepath.Dir(mark))
		}
		errs = errors.Join(errs, fmt.Errorf("grow the image: %w", err))
	}
	err := explain(w.path, errs)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return exit.WithHint(exit.Config(err), "let the hypervisors' user write to %s, or grow the image yourself", filepath.Dir(w.path))
	}
	return err
}

// unmark takes the mark away. One that stays has the file system checked again,
// which does no harm.
func (w *volumeWork) unmark() {
	for _, mark := range w.marks() {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) && exists(mark) {
			w.l.logf("%w", exit.WithHint(fmt.Errorf("warning: %w; the next start checks the file system again", err), "rm %s", mark))
		}
	}
}

// grow enlarges an image and an ext file system in it. Others grow mounted,
// which is the guest's to do. A mark makes the next start go on where this one
// is cut off.
func (w *volumeWork) grow(size int64) error {
	ext, err := holdsExt(w.image.file)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(w.v.FSType, "ext") || !ext {
		return w.enlarge(size)
	}
	fsck, err := findProgram("e2fsck")
	if err != nil {
		return exit.Configf("e2fsck is not installed; on Debian it is in package e2fsprogs")
	}
	resize, err := findProgram("resize2fs")
	if err != nil {
		return exit.Configf("resize2fs is not installed; on Debian it is in package e2fsprogs")
	}
	if err := w.mark(); err != nil {
		return err
	}
	if err := w.enlarge(size); err != nil {
		return err
	}
	var ended *exec.ExitError
	// 1 says that errors were corrected, e2fsck(8).
	if err := run(fsck, "-f", "-p", w.path); err != nil && (!errors.As(err, &ended) || ended.ExitCode() != 1) {
		return explain(w.path, fmt.Errorf("grow the file system: %w; repair it by hand with: e2fsck -f %s", err, w.path))
	}
	if err := run(resize, w.path); err != nil {
		return explain(w.path, fmt.Errorf("grow the file system: %w", err))
	}
	w.unmark()
	return nil
}

// holdsExt says whether there is an ext file system in an image: the guest may
// have made another since. The magic number is in the super block, see
// Documentation/filesystems/ext4 of the kernel.
func holdsExt(r io.ReaderAt) (bool, error) {
	magic, err := readAt(r, 1024+0x38, 2)
	return string(magic) == "\x53\xef", err
}

func (w *volumeWork) enlarge(size int64) error {
	if err := w.image.file.Truncate(size); err != nil {
		return explain(w.path, fmt.Errorf("grow the image: %w", err))
	}
	return nil
}

// findProgram looks where administrators' programs are, too: a service's PATH
// may not have them.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case strings.Contains(name, "/") && errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%s is not executable", name)
	case strings.Contains(name, "/"):
		return "", fmt.Errorf("%s: %w", name, cause(err))
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/run/current-system/sw/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s not found in PATH", name)
}

// cause is an error of a program without the program's name, which exec.Error and
// fs.PathError both repeat.
func cause(err error) error {
	var path *fs.PathError
	var program *exec.Error
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &program):
		return program.Err
	}
	return err
}

// run runs a program and puts what it says into the error.
func run(program string, args ...string) error {
	cmd := exec.Command(program, args...) //nolint:gosec // mkfs and its kin, with the operator's arguments
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(out.String()))
	}
	return nil
}
