package seccomp

import (
	"encoding/binary"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const refuse = unix.SECCOMP_RET_USER_NOTIF

// call returns a struct seccomp_data for bpf.VM of x/net, which is made for packets and
// reads big-endian values.
func call(nr, arch uint32, args ...uint64) []byte {
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[dataNr:], nr)
	binary.BigEndian.PutUint32(data[dataArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[dataArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[dataArgs+8*i+4:], uint32(a>>32))
	}
	return data
}

func TestTheFilterAsksAboutModesThatCount(t *testing.T) {
	vm, err := bpf.NewVM(program(refuse))
	if err != nil {
		t.Fatal(err)
	}
	verdict := func(data []byte) uint32 {
		t.Helper()
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(got)
	}
	for _, c := range modeCalls {
		for _, mode := range []uint64{0, 0o644, 0o777, 0o1777, 0o100644, unix.S_ISUID | 0o755, unix.S_ISGID | 0o755, unix.S_ISUID | unix.S_ISGID, 0o104755} {
			for _, flags := range []uint64{0, unix.O_WRONLY | unix.O_DIRECTORY, unix.O_CREAT | unix.O_WRONLY, unix.O_TMPFILE, ^uint64(0)} {
				args := make([]uint64, 6)
				if c.hasFlags {
					args[c.flags] = flags
				}
				args[c.mode] = mode
				// What the kernel does not look at, either.
				args[c.mode] |= 1 << 40
				want := uint32(unix.SECCOMP_RET_ALLOW)
				if mode&(unix.S_ISUID|unix.S_ISGID) != 0 && (!c.hasFlags || flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0) {
					want = refuse
				}
				if got := verdict(call(c.nr, auditArch, args...)); got != want {
					t.Errorf("call %d, mode %o, flags %o: %#x, want %#x", c.nr, mode, flags, got, want)
				}
				if got := verdict(call(c.nr, auditArch+1, args...)); got != unix.SECCOMP_RET_ALLOW {
					t.Errorf("a call of another architecture: %#x", got)
				}
			}
		}
	}
	if got := verdict(call(unix.SYS_OPENAT2, auditArch)); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
		t.Errorf("openat2: %#x", got)
	}
	if got := verdict(call(unix.SYS_READ, auditArch, 04755, 04755, 04755, 04755)); got != unix.SECCOMP_RET_ALLOW {
		t.Errorf("read: %#x", got)
	}
}

// TestTheKernelTakesTheFilter and asks about this very process.
func TestTheKernelTakesTheFilter(t *testing.T) {
	dir := t.TempDir()
	refused := make(chan uint32, 16)
	var errs [3]error
	done := make(chan error)
	go func() {
		// Never unlocked: the filter ends with the thread.
		runtime.LockOSThread()
		f, err := Install()
		if err != nil || f == nil {
			done <- err
			return
		}
		go func() { _ = Judge(f, func(mode uint32) { refused <- mode }) }()
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		errs[0] = unix.Fchmod(fd, 0o2755)
		errs[1] = unix.Fchmod(fd, 0o4755)
		errs[2] = unix.Fchmod(fd, 0o755)
		_ = unix.Close(fd)
		_ = f.Close()
		close(done)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if errs[0] != nil || errs[1] != unix.EPERM || errs[2] != nil {
		t.Errorf("set-group-ID %v, set-user-ID %v, neither %v", errs[0], errs[1], errs[2])
	}
	if len(refused) != 1 || <-refused != 0o4755 {
		t.Errorf("%d were refused", len(refused))
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWhatIsNoDirectoryIsRefused(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	pid := uint32(os.Getpid())
	text := []byte("not a number\x00")
	address := uint64(uintptr(unsafe.Pointer(&text[0])))
	for name, n := range map[string]notification{
		"a file":              {pid: pid, nr: unix.SYS_FCHMOD, args: [6]uint64{uint64(f.Fd()), 0o2755}},
		"no descriptor":       {pid: pid, nr: unix.SYS_FCHMOD, args: [6]uint64{999999, 0o2755}},
		"no number":           {pid: pid, nr: unix.SYS_FCHMODAT, args: [6]uint64{0, address, 0o2755}},
		"no string":           {pid: pid, nr: unix.SYS_FCHMODAT2, args: [6]uint64{0, 1, 0o2755}},
		"a new file":          {pid: pid, nr: unix.SYS_MKNODAT, args: [6]uint64{0, 0, 0o102755}},
		"both on a directory": {pid: pid, nr: unix.SYS_FCHMOD, args: [6]uint64{0, 0o6755}},
	} {
		if mode, allowed := decide(&n); allowed || mode&0o2000 == 0 {
			t.Errorf("%s: mode %o, allowed %v", name, mode, allowed)
		}
	}
	runtime.KeepAlive(text)
}
