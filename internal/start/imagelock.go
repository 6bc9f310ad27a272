package start

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/unit"
)

// use is how a VM uses an image, which decides who else may use it.
type use int

const (
	alone          use = iota // it writes, and no others read
	reading                   // it reads, and no others write
	sharing                   // it writes, and so may others
	sharingReading            // it reads, and others may write
)

func useOf(v hypervisor.Volume) use {
	switch {
	case v.Shared && v.ReadOnly:
		return sharingReading
	case v.Shared:
		return sharing
	case v.ReadOnly:
		return reading
	}
	return alone
}

// What hypervisors lock. QEMU (block/file-posix.c) takes read locks that belong to
// the open file description: byte 100+N of an image while it has permission N, and
// byte 200+N while no others may have it. It then looks for other locks on the
// opposite bytes. Cloud Hypervisor (since 46) locks the whole image, for reading or
// for writing. StratoVirt locks bytes 101, 102 and 202 as QEMU does, but by process;
// to the kernel, both kinds of lock conflict alike.
const (
	qemuHas, qemuKeeps                                   = 100, 200
	permRead, permWrite, permUnchanged, permResize int64 = 0, 1, 2, 3
)

// gate is a byte that no hypervisor locks. It keeps other starts off while the VM's
// own commands use the image.
const gate = 300

// bytes returns the bytes that a use locks for reading; alone, which locks the whole
// image for writing, has none. They conflict with just those uses that they have to
// exclude. 202 is for StratoVirt.
func (u use) bytes() []int64 {
	switch u {
	case reading:
		return []int64{qemuHas + permRead, qemuKeeps + permWrite, qemuKeeps + permUnchanged, qemuKeeps + permResize}
	case sharing:
		return []int64{qemuHas + permRead, qemuHas + permWrite}
	case sharingReading:
		return []int64{qemuHas + permRead}
	case alone:
	}
	return nil
}

// image is an image that is open and locked.
type image struct {
	path string
	file *os.File
	use  use
	// keep makes the hypervisor inherit the descriptor, and the lock with it.
	keep bool
	// exclusive means that no other process uses the image, so it can be changed.
	exclusive bool
	// unlockable means that the file system has no locks.
	unlockable bool
}

// errBusy means that another process uses the image.
var errBusy = errors.New("in use")

// setLock locks or unlocks length bytes from start on, up to the end if length is 0.
// It returns errBusy where another lock conflicts.
func setLock(f *os.File, kind int16, start, length int64) error {
	for {
		l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return errBusy
		}
		return err
	}
}

// conflict returns a lock of another process that conflicts with one of that kind,
// and whether there is one.
func conflict(f *os.File, kind int16, start, length int64) (unix.Flock_t, bool, error) {
	l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return l, err == nil && l.Type != unix.F_UNLCK, err
}

// lock locks the image for its use. An image that others may share is first locked
// as a whole, if possible, so that it can be changed; see settle.
func (im *image) lock() error {
	if im.use == alone || im.use == sharing {
		err := setLock(im.file, unix.F_WRLCK, 0, 0)
		im.exclusive = err == nil
		if err == nil || im.use == alone {
			return errors.Join(err, im.askCrosvm(err))
		}
		if !errors.Is(err, errBusy) {
			return err
		}
	}
	return im.settle()
}

// settle narrows the lock to what the use needs.
func (im *image) settle() error {
	bytes := im.use.bytes()
	if im.unlockable || len(bytes) == 0 {
		return nil
	}
	for _, b := range bytes {
		if err := setLock(im.file, unix.F_RDLCK, b, 1); err != nil {
			return err
		}
	}
	from := int64(0)
	for _, b := range bytes {
		if b > from {
			if err := setLock(im.file, unix.F_UNLCK, from, b-from); err != nil {
				return err
			}
		}
		from = b + 1
	}
	im.exclusive = false
	if err := setLock(im.file, unix.F_UNLCK, from, 0); err != nil {
		return err
	}
	return im.checkOthers()
}

// checkOthers returns errBusy if there are locks that do not conflict with ours for
// the kernel, but mean that the image must not be used.
func (im *image) checkOthers() error {
	if _, found, err := conflict(im.file, unix.F_RDLCK, 0, 0); err != nil || found {
		return errors.Join(err, errBusy) // a writer
	}
	switch im.use {
	case reading:
		// A QEMU that writes has a read lock here, and so have other readers. QEMU's
		// begins at permRead, as it always reads what it writes; theirs do not.
		l, found, err := conflict(im.file, unix.F_WRLCK, qemuHas+permWrite, 1)
		if err != nil || found && l.Start == qemuHas+permRead {
			return errors.Join(err, errBusy)
		}
		return im.askCrosvm(nil)
	case sharing:
		if _, found, err := conflict(im.file, unix.F_WRLCK, qemuKeeps+permRead, permUnchanged+1); err != nil || found {
			return errors.Join(err, errBusy)
		}
	case sharingReading:
		if _, found, err := conflict(im.file, unix.F_WRLCK, qemuKeeps+permRead, 1); err != nil || found {
			return errors.Join(err, errBusy)
		}
		// A QEMU that writes, and excludes other writers.
		l, writes, err := conflict(im.file, unix.F_WRLCK, qemuHas+permWrite, 1)
		if err != nil || !writes || l.Start != qemuHas+permRead {
			return err
		}
		if _, found, err := conflict(im.file, unix.F_WRLCK, qemuKeeps+permWrite, 1); err != nil || found {
			return errors.Join(err, errBusy)
		}
	case alone:
	}
	return nil
}

// askCrosvm returns errBusy if a crosvm uses the image, which locks by flock(2). It
// does so by taking that lock, only for a moment, as a program that creates or
// checks a file system may need it. It skips network file systems, which turn
// flock(2) into the other kind of lock. before is the result of that other lock: an
// error means that there is nothing more to check.
func (im *image) askCrosvm(before error) error {
	var st unix.Statfs_t
	var file unix.Stat_t
	if before != nil || unix.Fstat(int(im.file.Fd()), &file) != nil || file.Mode&unix.S_IFMT != unix.S_IFREG || unix.Fstatfs(int(im.file.Fd()), &st) != nil {
		return nil
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC:
		return nil
	}
	how := unix.LOCK_EX
	if im.use == reading {
		how = unix.LOCK_SH
	}
	err := unix.Flock(int(im.file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errBusy
	}
	_ = unix.Flock(int(im.file.Fd()), unix.LOCK_UN)
	return nil
}

// images are the images of a VM.
type images struct{ list []*image }

// Close closes and so unlocks the images. i may be nil.
func (i *images) Close() {
	if i == nil {
		return
	}
	for _, im := range i.list {
		_ = im.file.Close()
	}
}

// inherited returns the descriptors that the hypervisor inherits. The others close
// when it is executed, or it could not lock its own images.
func (i *images) inherited() []int {
	var out []int
	for _, im := range i.list {
		if im.keep {
			out = append(out, int(im.file.Fd()))
		}
	}
	return out
}

// lend calls commands, which run programs of the VM that may use and lock its images,
// with the images unlocked but for gate, which keeps other starts off.
func (i *images) lend(vm string, commands func() error) error {
	for _, im := range i.list {
		if im.use != alone || im.unlockable {
			continue
		}
		if err := errors.Join(setLock(im.file, unix.F_UNLCK, 0, gate), setLock(im.file, unix.F_UNLCK, gate+1, 0)); err != nil {
			return fmt.Errorf("unlock %s: %w", im.path, err)
		}
	}
	if err := commands(); err != nil {
		return err
	}
	for _, im := range i.list {
		if im.use != alone || im.unlockable {
			continue
		}
		if err := setLock(im.file, unix.F_WRLCK, 0, 0); err != nil {
			return im.cannotLock(vm, err)
		}
	}
	return nil
}

// cannotLock returns err, with the image's user if that can be found: the kernel does
// not report who owns a lock of an open file description. vm may be empty.
func (im *image) cannotLock(vm string, err error) error {
	if !errors.Is(err, errBusy) {
		return fmt.Errorf("lock %s: %w", im.path, err)
	}
	who := holder(im.path)
	if who == "" {
		who = "another process"
	}
	if vm == "" {
		vm = "NAME"
	}
	return exit.WithHint(exit.WithHint(exit.WithHint(fmt.Errorf("%s is in use by %s", im.path, who),
		"stop it, or give this VM its own image"),
		"compare the VMs with: microvm doctor %s", vm),
		"if several VMs are meant to write this disk, set shared in each of them")
}

// holder returns the VM or process that has path among its arguments, or "".
func holder(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		for _, arg := range args[1:] {
			if !hasPath(arg, path) {
				continue
			}
			if vm, ok := unit.VMOfProcess(args[0]); ok {
				return "VM " + vm
			}
			return fmt.Sprintf("process %d, %s", pid, filepath.Base(args[0]))
		}
	}
	return ""
}

// hasPath reports whether an argument is path, or an option with path as its value.
func hasPath(arg, path string) bool {
	before, after, found := strings.Cut(arg, path)
	return found && (before == "" || strings.HasSuffix(before, "=")) && (after == "" || after[0] == ',')
}
