package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

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

// volumes makes the images that are missing and grows those that are declared
// larger than they are. dir is the state directory. Paths are followed as the
// hypervisor's user, who may put links there: it can reach nothing by them
// that it cannot reach anyhow.
func (l *Launcher) volumes(dir string, list []hypervisor.Volume) error {
	for _, v := range list {
		path := v.Image
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if err := l.volume(path, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.Image, err)
		}
	}
	return nil
}

func (l *Launcher) volume(path string, v hypervisor.Volume) error {
	info, err := os.Stat(path)
	switch {
	case err == nil:
		return l.existing(path, info, v)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if target, linked := os.Readlink(path); linked == nil {
		// The disk it is on may not be mounted: no time for an empty image.
		return configf("%s is a link to %s, which does not exist; mount the disk it is on, or remove the link", path, target)
	}
	if !v.AutoCreate {
		return configf("the image %s does not exist and autoCreate is off; put it there, or turn autoCreate on", path)
	}
	l.logf("creating volume %s, %d MiB, %s", v.Image, v.SizeMiB, v.FSType)
	return create(path, v)
}

// existing checks an image that is there, which is never formatted.
func (l *Launcher) existing(path string, info fs.FileInfo, v hypervisor.Volume) error {
	mode := info.Mode()
	device := mode&fs.ModeDevice != 0 // a disk or a logical volume of the operator's
	if !device && !mode.IsRegular() {
		return configf("%s is a %s, not an image; remove it or name another image", path, kind(mode))
	}
	if err := usable(path, v.ReadOnly); err != nil {
		return configf("%s: %w; let the hypervisors' user use it, or set readOnly where it only has to read", path, err)
	}
	if device {
		return nil
	}
	size := int64(v.SizeMiB) * mib
	if !v.AutoCreate || v.ReadOnly || size == 0 {
		return nil
	}
	if info.Size() > size {
		return configf("the image has %d MiB and %d are declared; shrinking would lose data: declare at least %d, or make a new image and copy",
			(info.Size()+mib-1)/mib, v.SizeMiB, (info.Size()+mib-1)/mib)
	}
	_, err := os.Lstat(beside(path, volumeGrowing))
	if info.Size() == size && err != nil {
		return nil
	}
	l.logf("growing volume %s from %d to %d MiB", v.Image, info.Size()/mib, v.SizeMiB)
	return grow(path, size, v.FSType)
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

func kind(mode fs.FileMode) string {
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
// system is complete and on disk.
func create(path string, v hypervisor.Volume) (err error) {
	how, known := fileSystems[v.FSType]
	if !known {
		return configf("no way is known to make a file system of type %q; make the image yourself and set autoCreate to false, or choose ext4", v.FSType)
	}
	mkfs, err := findProgram(how.program)
	if err != nil {
		return configf("%s is not installed; on Debian it is in package %s", how.program, how.debianPackage)
	}
	tmp := beside(path, volumeTemp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what an interrupted start left: %w", err)
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o660) //nolint:gosec // the declared place
	if err != nil {
		return cannotMake(filepath.Dir(path), err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	noCopyOnWrite(f)
	if err := f.Truncate(int64(v.SizeMiB) * mib); err != nil {
		return fmt.Errorf("make the image %d MiB large: %w", v.SizeMiB, err)
	}
	args := append([]string{}, v.MkfsExtraArgs...)
	if v.Label != "" {
		args = append([]string{how.labelFlag, v.Label}, args...)
	}
	if err := run(mkfs, append(args, tmp)...); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write the image to disk: %w", err)
	}
	// Never over an image that somebody put there meanwhile.
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("put the image in place: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// cannotMake says why an image cannot be made in dir, and what helps.
func cannotMake(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return configf("make the image: %w; the hypervisors' user has to be able to write to %s", err, dir)
	case errors.Is(err, fs.ErrNotExist):
		return configf("make the image: %w; make the directory %s, writable for the hypervisors' user", err, dir)
	}
	return fmt.Errorf("make the image: %w", err)
}

// syncDir makes a rename in dir last over a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the directory of a declared image
	if err != nil {
		return fmt.Errorf("write directory %s to disk: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write directory %s to disk: %w", dir, err)
	}
	return nil
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

// grow enlarges an image and an ext file system in it. Others grow mounted,
// which is the guest's to do. A mark beside the image makes the next start go
// on where this one is cut off.
func grow(path string, size int64, fsType string) error {
	ext, err := holdsExt(path)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(fsType, "ext") || !ext {
		return enlarge(path, size)
	}
	fsck, err := findProgram("e2fsck")
	if err != nil {
		return configf("e2fsck is not installed; on Debian it is in package e2fsprogs")
	}
	resize, err := findProgram("resize2fs")
	if err != nil {
		return configf("resize2fs is not installed; on Debian it is in package e2fsprogs")
	}
	mark := beside(path, volumeGrowing)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("grow the image: %w", err)
	}
	if err := enlarge(path, size); err != nil {
		return err
	}
	var exit *exec.ExitError
	// 1 says that errors were corrected, e2fsck(8).
	if err := run(fsck, "-f", "-p", path); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return fmt.Errorf("grow the file system: %w; repair it by hand with: e2fsck -f %s", err, path)
	}
	if err := run(resize, path); err != nil {
		return fmt.Errorf("grow the file system: %w", err)
	}
	if err := os.Remove(mark); err != nil {
		return fmt.Errorf("grow the image: %w", err)
	}
	return nil
}

// holdsExt says whether there is an ext file system in an image: the guest may
// have made another since. The magic number is in the super block, see
// Documentation/filesystems/ext4 of the kernel.
func holdsExt(path string) (bool, error) {
	f, err := os.Open(path) //nolint:gosec // a declared image
	if err != nil {
		return false, fmt.Errorf("look at the image: %w", err)
	}
	var magic [2]byte
	_, err = f.ReadAt(magic[:], 1024+0x38)
	if errors.Is(err, io.EOF) {
		err = nil // too small for one
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("look at the image: %w", err)
	}
	return magic == [2]byte{0x53, 0xef}, nil
}

func enlarge(path string, size int64) error {
	if err := os.Truncate(path, size); err != nil {
		return fmt.Errorf("grow the image: %w", err)
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
