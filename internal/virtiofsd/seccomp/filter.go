// Package seccomp keeps the programs that a thread starts from giving files modes
// that would count on the host.
//
// A guest is root in its share. A file there that is set-user-ID root would
// make root of any user of the host who runs it, now or long after the VM is
// gone, so no mount option of ours helps. virtiofsd in a confined share
// therefore runs under a seccomp filter, seccomp(2), that hands every call
// with such a mode to the supervisor: set-group-ID on a directory, which only
// hands down the group, passes; anything else is refused and logged.
package seccomp

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

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
	// Offsets in struct seccomp_data; the values are little-endian, so that the low
	// half of an argument comes first.
	dataNr, dataArch, dataArgs = 0, 4, 16
)

// load puts a word of struct seccomp_data into the accumulator.
func load(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }

func arg(n int) uint32 { return dataArgs + 8*uint32(n) }

// program is the filter; refuse is what it does with a mode it looks for.
// openat2(2) passes its mode by reference, where no filter can see it; it is
// declared missing, and virtiofsd has another way then.
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

// body is run for one call and always returns.
func (c modeCall) body(refuse uint32) []bpf.Instruction {
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	var body []bpf.Instruction
	if c.hasFlags {
		body = append(body, load(arg(c.flags)), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: createFlags, SkipTrue: 1}, allow)
	}
	return append(body, load(arg(c.mode)), bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: setID, SkipTrue: 1}, bpf.RetConstant{Val: refuse}, allow)
}

// Install puts the filter on the calling thread, which has to be locked
// and never unlocked, and so on every program that it starts. The returned
// file tells of the calls to decide on, see Judge; it is nil where an outer filter
// has taken that place, and then they are all refused.
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
		return nil, fmt.Errorf("install the system call filter: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("prepare the system call filter: %w", err)
	}
	return os.NewFile(uintptr(fd), "seccomp"), nil
}

// set puts the filter that refuses so on the calling thread.
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
