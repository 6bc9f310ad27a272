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

// Names beside an image that say how far the work on it got, for the start
// after a crash: one that is not finished, and one whose file system may be
// smaller than the image.
const (
	volumeTemp    = ".microvm-new-"
	volumeGrowing = ".microvm-grow-"
)

const mib = 1 << 20

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

// volumeWork is what is to be done about one volume.
type volumeWork struct {
	vm   statedir.VM
	logf exit.Logf
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
	w.logf("creating volume %s, %d MiB, %s", w.v.Image, w.v.SizeMiB, w.v.FSType)
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
		return nil, im.cannotLock(w.vm.Name, err)
	case err != nil:
		// A network file system without locks, say. Hypervisors that lock do not
		// start then; the others have no other protection, either.
		w.logf("warning: cannot lock %s: %w; see that no other VM uses it", w.path, err)
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
		return w.image.cannotLock(w.vm.Name, err)
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
		w.logf("volume %s is to grow from %d to %d MiB, and another VM has it; it grows when that is down", w.v.Image, info.Size()/mib, w.v.SizeMiB)
		return nil
	}
	w.logf("growing volume %s from %d to %d MiB", w.v.Image, info.Size()/mib, w.v.SizeMiB)
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
