package start

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// Prefixes of names next to an image, which tell the start after a crash how far the
// last one got: a new image that is not finished, and the mark of an image whose file
// system may be smaller than the image.
const (
	volumeTemp    = ".microvm-new-"
	volumeGrowing = ".microvm-grow-"
)

const mib = 1 << 20

// fileSystem is how a file system is created and labelled.
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

// volumes opens and locks the images, creates missing ones and grows those that are
// smaller than declared. No image is changed before it is locked. dir is the state
// directory. Links are followed with the rights of the hypervisors' user, who can
// create them: they give that user access to nothing new.
func (s *start) volumes(dir string) (*images, error) {
	held := &images{}
	for _, v := range s.plan.Volumes {
		path := v.Image
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		work := &volumeWork{vm: s.vm, logf: s.Logf, dir: dir, hyp: s.plan.Hypervisor, path: path, v: v}
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

// volumeWork is the work on one volume.
type volumeWork struct {
	vm   statedir.VM
	logf exit.Logf
	// dir is the state directory, hyp the hypervisor, and path that of the image.
	dir, hyp, path string
	v              hypervisor.Volume
	// image is open and locked; nil until then, and for a character device.
	image *image
}

// volumeAttempts is how often an image may be replaced while it is opened.
const volumeAttempts = 10

// do opens and locks the image, after creating or growing it if necessary.
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
	return fmt.Errorf("%s keeps being replaced", w.path)
}

// errReplaced means that an image was created, or replaced by another file, meanwhile.
var errReplaced = errors.New("replaced")

// notTwice returns an error for an image that is also another volume of the VM, under
// another name: no lock protects it from the VM itself.
func (w *volumeWork) notTwice(held *images) error {
	info, err := os.Stat(w.path)
	if err != nil {
		return nil // do handles it
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

// missing creates an image that does not exist. It fails without exit.Config where a
// later start may succeed, for instance if a disk is not mounted yet.
func (w *volumeWork) missing() error {
	if target, err := os.Readlink(w.path); err == nil {
		// The target's disk may not be mounted, so no empty image is created.
		return exit.WithHint(fmt.Errorf("%s is a link to %s, which does not exist or is hidden from the VM's unit", w.path, target),
			"mount the disk it is on, name %s itself as the image in the spec, or remove the link", target)
	}
	if !w.v.AutoCreate {
		return exit.WithHint(fmt.Errorf("image %s not found, and autoCreate is off", w.path), "put the image there, or turn autoCreate on")
	}
	if err := w.mayCreate(filepath.Dir(w.path)); err != nil {
		return err
	}
	w.logf("creating volume %s, %d MiB, %s", w.v.Image, w.v.SizeMiB, w.v.FSType)
	if err := w.create(); err != nil {
		return err
	}
	return w.settle()
}

// existing checks and locks an image that exists, and grows it if necessary. It never
// formats one.
func (w *volumeWork) existing(info fs.FileInfo) error {
	mode := info.Mode()
	device := mode&fs.ModeDevice != 0 // such as a logical volume
	if !device && !mode.IsRegular() {
		return exit.WithHint(exit.Configf("%s is a %s, not an image", w.path, fileKind(mode)), "remove it, or name another image")
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

// usable explains, with a hint, an error that opening the image met. A nil err stays
// nil.
func (w *volumeWork) usable(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return exit.WithHint(exit.Configf("%s: %w", w.path, err),
			"give the hypervisors' user access to it, or set readOnly if the guest only reads")
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

// lock locks an open image. It returns errReplaced if the image's path names another
// file by now.
func (w *volumeWork) lock(f *os.File) (*image, error) {
	im := &image{path: w.path, file: f, use: useOf(w.v), keep: w.v.KeepLock}
	err := im.lock()
	switch {
	case errors.Is(err, errBusy):
		return nil, im.cannotLock(w.vm.Name, err)
	case err != nil:
		// For instance a network file system without locks. Hypervisors that lock their
		// images fail on it; the others run unprotected in any case.
		w.warnUnlocked(err)
		im.exclusive, im.unlockable = true, true
	}
	ours, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat the image: %w", err)
	}
	if now, err := os.Stat(f.Name()); err != nil || !os.SameFile(ours, now) {
		return nil, errReplaced
	}
	return im, nil
}

// warnUnlocked logs that locking the image failed with err.
func (w *volumeWork) warnUnlocked(err error) {
	w.logf("%w", exit.WithHint(fmt.Errorf("warning: lock %s: %w", w.path, err), "make sure that no other VM uses it"))
}

// settle narrows the lock of an image that others may share.
func (w *volumeWork) settle() error {
	if w.image == nil || w.image.use == alone {
		return nil
	}
	if err := w.image.settle(); errors.Is(err, errBusy) {
		return w.image.cannotLock(w.vm.Name, err)
	}
	return nil
}

// fit grows an image that is smaller than declared, and returns an error for one that
// is larger.
func (w *volumeWork) fit() error {
	size := int64(w.v.SizeMiB) * mib
	if !w.v.AutoCreate || w.v.ReadOnly || size == 0 {
		return nil
	}
	info, err := w.image.file.Stat()
	if err != nil {
		return fmt.Errorf("stat the image: %w", err)
	}
	if info.Size() > size {
		have := (info.Size() + mib - 1) / mib
		return exit.WithHint(exit.Configf("the image has %d MiB, but size is %d: shrinking would lose data", have, w.v.SizeMiB),
			"set size to at least %d, or copy the data to a new image", have)
	}
	if info.Size() == size && w.growing() == "" {
		return nil
	}
	if !w.image.exclusive {
		w.logf("not growing volume %s from %d to %d MiB while another VM uses it", w.v.Image, info.Size()/mib, w.v.SizeMiB)
		return nil
	}
	w.logf("growing volume %s from %d to %d MiB", w.v.Image, info.Size()/mib, w.v.SizeMiB)
	return w.grow(size)
}

// beside returns path with prefix in front of its last element.
func beside(path, prefix string) string {
	return filepath.Join(filepath.Dir(path), prefix+filepath.Base(path))
}

// usable returns an error if this process cannot open an image.
func usable(path string, readOnly bool) error {
	if readOnly {
		return unix.Access(path, unix.R_OK)
	}
	return unix.Access(path, unix.R_OK|unix.W_OK)
}

// fileKind returns what a file that is neither regular nor a disk is.
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
