package seccomp

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification and response are the kernel's struct seccomp_notif and struct
// seccomp_notif_resp, linux/seccomp.h and seccomp_unotify(2).
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// respContinue is SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel runs the call.
const respContinue = 1

// Judge answers the calls that f, a file of Install, reports, until f is closed. It
// calls refused with the mode of each call that it refuses. An error means that no call
// was answered.
func Judge(f *os.File, refused func(mode uint32)) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n notification
		var received error
		err := conn.Read(func(fd uintptr) bool {
			if !readable(fd) {
				return false
			}
			n = notification{}
			received = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n))
			return true
		})
		if err != nil {
			return nil // f was closed
		}
		// The caller was killed after poll had reported its call.
		if received != nil {
			continue
		}
		mode, allowed := decide(&n)
		if !allowed {
			refused(mode)
		}
		answer(conn, &n, allowed)
	}
}

// answer sends the answer to a call. Errors are ignored: the caller has exited.
func answer(conn syscall.RawConn, n *notification, allowed bool) {
	resp := response{id: n.id, errno: -int32(unix.EPERM)}
	if allowed {
		resp.errno, resp.flags = 0, respContinue
	}
	_ = conn.Control(func(fd uintptr) {
		_ = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp))
	})
}

// readable reports whether a call is waiting for an answer. Without this check,
// SECCOMP_IOCTL_NOTIF_RECV would block, even on a non-blocking descriptor.
func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0
}

// ioctl calls ioctl(2) and retries it when a signal interrupts it.
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

// decide returns the mode that was asked for and reports whether it is allowed:
// set-group-ID on a directory. virtiofsd names a file by a descriptor, or by the
// descriptor's number in /proc/self/fd. It keeps the descriptor open while it handles
// a request, so the number cannot come to mean another file before the call continues.
func decide(n *notification) (mode uint32, allowed bool) {
	nr := uint32(n.nr)
	for _, c := range modeCalls {
		if c.nr == nr {
			mode = uint32(n.args[c.mode]) & 0o7777
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
		name, err := readString(int(n.pid), uintptr(n.args[1]))
		return mode, err == nil && isDirectory(n.pid, name)
	}
	return mode, false
}

// isDirectory reports whether the descriptor number of the process pid is a directory.
func isDirectory(pid uint32, number string) bool {
	if _, err := strconv.ParseUint(number, 10, 31); err != nil {
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%s", pid, number), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// readString reads a string of at most 15 bytes at an address of the process pid.
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
	return "", errors.New("string is too long")
}
