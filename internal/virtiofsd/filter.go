package virtiofsd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A guest is root in its share. A file there that is set-user-ID root would
// make root of any user of the host who runs it, now or long after the VM is
// gone, so no mount option of ours helps. virtiofsd in a confined share
// therefore runs under a seccomp filter, seccomp(2), that hands every call
// with such a mode to the supervisor: set-group-ID on a directory, which only
// hands down the group, passes; anything else is refused and logged.

// modeCall is a system call with a file mode among its arguments.
type modeCall struct {
	nr uint32
	// mode and flags count the arguments from 0. Where it has flags, the mode
	// counts only with O_CREAT or O_TMPFILE.
	mode, flags int
	hasFlags    bool
}

// commonModeCalls exist on every architecture.
var commonModeCalls = []modeCall{
	{nr: unix.SYS_FCHMOD, mode: 1},
	{nr: unix.SYS_FCHMODAT, mode: 2},
	{nr: unix.SYS_FCHMODAT2, mode: 2},
	{nr: unix.SYS_MKNODAT, mode: 2},
	{nr: unix.SYS_OPENAT, mode: 3, flags: 2, hasFlags: true},
}

const (
	// setID are the bits that the filter looks for.
	setID = unix.S_ISUID | unix.S_ISGID
	// createFlags are those with which open(2) takes a mode; O_TMPFILE without
	// the O_DIRECTORY that is part of it.
	createFlags = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	// Offsets in struct seccomp_data; the values are little-endian.
	dataNr, dataArch, dataArgs = 0, 4, 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// jump goes on at yes or no, counted from the next instruction.
func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func arg(n int) uint32 { return dataArgs + 8*uint32(n) } //nolint:gosec // n is 0 to 5

// program builds the filter; refuse is what it does with a mode it looks for.
// openat2(2) passes its mode by reference, where no filter can see it; it is
// declared missing, and virtiofsd has another way then.
func filterProgram(refuse uint32) []unix.SockFilter {
	const allow = unix.SECCOMP_RET_ALLOW
	prog := []unix.SockFilter{
		load(dataArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(allow),
		load(dataNr),
		jump(unix.BPF_JEQ, unix.SYS_OPENAT2, 0, 1),
		ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
	}
	for _, c := range modeCalls {
		body := c.body(refuse)
		prog = append(prog, jump(unix.BPF_JEQ, c.nr, 0, uint8(len(body)))) //nolint:gosec // a handful
		prog = append(prog, body...)
	}
	return append(prog, ret(allow))
}

// body is run for one call and always returns.
func (c modeCall) body(refuse uint32) []unix.SockFilter {
	var body []unix.SockFilter
	if c.hasFlags {
		body = append(body,
			load(arg(c.flags)),
			jump(unix.BPF_JSET, createFlags, 1, 0),
			ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(body,
		load(arg(c.mode)),
		jump(unix.BPF_JSET, setID, 0, 1),
		ret(refuse),
		ret(unix.SECCOMP_RET_ALLOW))
}

// installFilter puts the filter on the calling thread, which has to be locked
// and never unlocked, and so on every program that it starts. The returned
// file tells of the calls to decide on; it is nil where an outer filter has
// taken that place, and then they are all refused.
func installFilter() (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	fd, err := setFilter(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, filterProgram(unix.SECCOMP_RET_USER_NOTIF))
	if err == unix.EBUSY {
		_, err = setFilter(0, filterProgram(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)))
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("install the system call filter: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("prepare the system call filter: %w", err)
	}
	return os.NewFile(uintptr(fd), "seccomp"), nil
}

func setFilter(flags uintptr, prog []unix.SockFilter) (int, error) {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}                                                    //nolint:gosec // some fifty
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog))) //nolint:gosec // the kernel reads it during the call
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil //nolint:gosec // a descriptor
}

// seccompNotif and seccompResp are the kernel's, linux/seccomp.h.
type seccompNotif struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type seccompResp struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// respContinue lets the kernel run the call.
const respContinue = 1

// judge answers the calls until the file is closed.
func judge(f *os.File, log func(string)) {
	conn, err := f.SyscallConn()
	if err != nil {
		log("watch mode changes: " + err.Error())
		return
	}
	var limit limiter
	for {
		var n seccompNotif
		var recvErr error
		err := conn.Read(func(fd uintptr) bool {
			if !readable(fd) {
				return false
			}
			n = seccompNotif{}
			recvErr = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) //nolint:gosec // the kernel fills it during the call
			return true
		})
		if err != nil {
			return
		}
		// The caller was killed between the two calls.
		if recvErr != nil {
			continue
		}
		mode, allowed := decide(&n)
		if !allowed && limit.ok() {
			log(fmt.Sprintf("the guest asked for file mode %04o: refused, since set-user-ID and set-group-ID files would count on the host", mode))
		}
		answer(conn, &n, allowed)
	}
}

// rawConn is the part of syscall.RawConn that answer needs.
type rawConn interface {
	Control(func(fd uintptr)) error
}

// answer sends the verdict. An error means that the caller is gone.
func answer(conn rawConn, n *seccompNotif, allowed bool) {
	resp := seccompResp{id: n.id, errno: -int32(unix.EPERM)}
	if allowed {
		resp.errno, resp.flags = 0, respContinue
	}
	_ = conn.Control(func(fd uintptr) {
		_ = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp)) //nolint:gosec // the kernel reads it during the call
	})
}

// readable polls without waiting: the kernel's receive call waits even on a
// descriptor that is non-blocking.
func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0
}

func ioctl(fd uintptr, req uint, data unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(data))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}

// decide says which mode was asked for and whether that may be: set-group-ID
// for a directory. virtiofsd names a file by descriptor, or by its number in
// /proc/self/fd. While it handles a request it keeps that descriptor open, so
// a guest cannot make the number mean another file before the call goes on.
func decide(n *seccompNotif) (mode uint32, allowed bool) {
	nr := uint32(n.nr) //nolint:gosec // never negative
	for _, c := range modeCalls {
		if c.nr == nr {
			mode = uint32(n.args[c.mode]) & 0o7777 //nolint:gosec // masked
			break
		}
	}
	if mode&unix.S_ISUID != 0 {
		return mode, false
	}
	switch nr {
	case unix.SYS_FCHMOD:
		return mode, isDirectory(n.pid, strconv.FormatUint(n.args[0], 10))
	case unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2:
		name, err := readString(int(n.pid), uintptr(n.args[1])) //nolint:gosec // the caller's pointer
		return mode, err == nil && isDirectory(n.pid, name)
	}
	return mode, false
}

// isDirectory says whether the descriptor of that number is a directory's.
func isDirectory(pid uint32, number string) bool {
	if _, err := strconv.ParseUint(number, 10, 31); err != nil {
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%s", pid, number), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// readString reads the short string at an address of another process.
func readString(pid int, addr uintptr) (string, error) {
	buf := make([]byte, 16)
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: addr, Len: len(buf)}}, 0)
	if err != nil {
		return "", err
	}
	for i, c := range buf[:n] {
		if c == 0 {
			return string(buf[:i]), nil
		}
	}
	return "", errors.New("no short string")
}
