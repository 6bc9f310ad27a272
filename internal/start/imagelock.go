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

// use is how a VM uses an image, which decides who else may have it.
type use int

const (
	alone          use = iota // it writes, and nobody else even reads
	reading                   // it reads, and nobody writes
	sharing                   // it writes, and others may as well
	sharingReading            // it reads what others may write
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

// What QEMU locks, by open file description (block/file-posix.c): byte 100+N of
// an image while it has permission N, and byte 200+N while nobody else may have
// it, each by a read lock. It looks for locks of others on the bytes that say the
// opposite. Cloud Hypervisor (since 46) locks the whole image, to read or to
// write; StratoVirt bytes 101, 102 and 202, in the same way, by process. Locks of
// processes and of descriptions are one to the kernel.
const (
	qemuHas, qemuKeeps                                   = 100, 200
	permRead, permWrite, permUnchanged, permResize int64 = 0, 1, 2, 3
)

// gate is a byte that no hypervisor locks by itself: it keeps other launchers
// off while the VM's own commands may use the image.
const gate = 300

// bytes are what is locked, to read, for each use but alone, which locks all, to
// write. Each is in the way of those whom it has to keep off, and of no other:
// 202 is for StratoVirt.
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
	// keep says that the hypervisor inherits the descriptor, and the lock with it.
	keep bool
	// exclusive says that nobody else has the image, so that it can be changed.
	exclusive bool
	// unlockable says that its file system has no locks.
	unlockable bool
}

// errBusy is an image that somebody else has.
var errBusy = errors.New("in use")

// setLock locks, or unlocks, length bytes from start on; 0 is to the end.
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

// conflict is the lock of somebody else that is in the way of one of that kind.
func conflict(f *os.File, kind int16, start, length int64) (unix.Flock_t, bool, error) {
	l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return l, err == nil && l.Type != unix.F_UNLCK, err
}

// lock takes the image for its use. For a while only, where nobody else has it,
// it is taken whole, also where others may share it later: see settle.
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
	return im.lookAround()
}

// lookAround looks for locks that stand beside ours and mean that we may not have
// the image.
func (im *image) lookAround() error {
	if _, found, err := conflict(im.file, unix.F_RDLCK, 0, 0); err != nil || found {
		return errors.Join(err, errBusy) // somebody writes
	}
	switch im.use {
	case reading:
		// QEMU writes by a read lock. So it is with others that read; theirs begins
		// elsewhere, as QEMU always reads what it writes.
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
		// A QEMU that writes, and wants to be the only one.
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

// askCrosvm looks whether a crosvm has the image, which locks by flock(2). That
// is taken for a moment only: a program that makes or checks a file system may
// want it. Network file systems make the other kind of lock of it, statfs(2).
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

// images are those of a VM.
type images struct{ list []*image }

// Close gives them up.
func (i *images) Close() {
	if i == nil {
		return
	}
	for _, im := range i.list {
		_ = im.file.Close()
	}
}

// inherited are the descriptors that the hypervisor is to have. The others close
// when it is executed, as it could not lock its own images otherwise.
func (i *images) inherited() []int {
	var out []int
	for _, im := range i.list {
		if im.keep {
			out = append(out, int(im.file.Fd()))
		}
	}
	return out
}

// lend calls commands of the VM's own, which may use its images: a hypervisor's
// tools lock them as well. Other launchers are kept off.
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

// cannotLock says who has an image, as far as that can be known: the kernel does
// not tell whose a lock of an open file description is.
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
	return exit.WithHint(
		exit.WithHint(fmt.Errorf("%s is in use by %s; it was left as it is", im.path, who),
			"stop that, or give this VM an image of its own; microvm doctor %s compares the VMs", vm),
		"a disk that several VMs are meant to write needs shared in each")
}

// holder is who has the path among the arguments that it was started with.
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

// hasPath says whether an argument is a path, or has it as the value of an option.
func hasPath(arg, path string) bool {
	before, after, found := strings.Cut(arg, path)
	return found && (before == "" || strings.HasSuffix(before, "=")) && (after == "" || after[0] == ',')
}
