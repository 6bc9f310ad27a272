package seccomp

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// modeCall is a system call that has a file mode among its arguments.
type modeCall struct {
	nr uint32
	// mode and flags are indices of arguments. If hasFlags is set, the mode is used
	// only with O_CREAT or O_TMPFILE in the flags.
	mode, flags int
	hasFlags    bool
}

// commonModeCalls are those that exist on every architecture.
var commonModeCalls = []modeCall{
	{nr: unix.SYS_FCHMOD, mode: 1},
	{nr: unix.SYS_FCHMODAT, mode: 2},
	{nr: unix.SYS_FCHMODAT2, mode: 2},
	{nr: unix.SYS_MKNODAT, mode: 2},
	{nr: unix.SYS_OPENAT, mode: 3, flags: 2, hasFlags: true},
}

const (
	// setID has the bits that the filter looks for.
	setID = unix.S_ISUID | unix.S_ISGID
	// createFlags are the flags with which open(2) uses its mode: O_CREAT, and
	// O_TMPFILE without the O_DIRECTORY that it includes.
	createFlags = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	// Offsets in struct seccomp_data. The values are little-endian: the low half of an
	// argument comes first.
	dataNr, dataArch, dataArgs = 0, 4, 16
)

// load returns the instruction that loads 32 bits of struct seccomp_data.
func load(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }

// arg returns the offset of the low half of argument n.
func arg(n int) uint32 { return dataArgs + 8*uint32(n) }

// program returns the filter; refuse is its action for a mode with a bit of setID.
// openat2(2) passes its mode by reference, where a filter cannot read it. The filter
// answers ENOSYS, and virtiofsd then falls back to openat(2).
func program(refuse uint32) []bpf.Instruction {
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	prog := []bpf.Instruction{
		load(dataArch),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		allow,
		load(dataNr),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_OPENAT2, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	for _, c := range modeCalls {
		body := c.body(refuse)
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c.nr, SkipTrue: uint8(len(body))})
		prog = append(prog, body...)
	}
	return append(prog, allow)
}

// body returns the instructions for one call; the last of them is a return.
func (c modeCall) body(refuse uint32) []bpf.Instruction {
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	var body []bpf.Instruction
	if c.hasFlags {
		body = append(body, load(arg(c.flags)), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: createFlags, SkipTrue: 1}, allow)
	}
	return append(body, load(arg(c.mode)), bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: setID, SkipTrue: 1}, bpf.RetConstant{Val: refuse}, allow)
}

// Install installs the filter on the calling thread, and so on every program that the
// thread starts. The goroutine must be locked to its thread and never unlocked. The
// returned file is for Judge; the caller closes it. It is nil if an outer filter already
// has a listener: the filter then refuses all such calls with EPERM.
func Install() (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	fd, err := set(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_RET_USER_NOTIF)
	if err == unix.EBUSY {
		_, err = set(0, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("install seccomp filter: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make seccomp listener non-blocking: %w", err)
	}
	return os.NewFile(uintptr(fd), "seccomp"), nil
}

// set installs the filter with the given action on the calling thread. With
// SECCOMP_FILTER_FLAG_NEW_LISTENER it returns the listener's descriptor.
func set(flags uintptr, refuse uint32) (int, error) {
	raw, err := bpf.Assemble(program(refuse))
	if err != nil {
		return -1, err
	}
	filter := make([]unix.SockFilter, 0, len(raw))
	for _, r := range raw {
		filter = append(filter, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
