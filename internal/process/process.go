// Package process holds other processes by a descriptor that always refers to the
// same one, pidfd_open(2), and reads their attributes from /proc.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process that is held. Its ID belongs to no other process as long as
// Exists reports true.
type Process struct {
	pid, fd int
	gone    <-chan struct{}
}

// Hold returns the process with that ID, nil if there is none. The caller calls
// Release.
func Hold(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	gone, err := ended(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Process{pid: pid, fd: fd, gone: gone}, nil
}

// HoldInUnit is Hold for a process of the unit of this process. It also returns nil
// for a process of another unit: the ID may have been reused since the service
// manager passed it on.
func HoldInUnit(pid int) (*Process, error) {
	// It is held before it is checked, so that both mean the same process.
	p, err := Hold(pid)
	if p == nil || err != nil {
		return nil, err
	}
	if !SameUnit(pid) || !p.Exists() {
		p.Release()
		return nil, nil
	}
	return p, nil
}

// PID returns the process's ID.
func (p *Process) PID() int { return p.pid }

// Gone returns a channel that is closed when the process exits, even after Release.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Release closes the descriptor.
func (p *Process) Release() { _ = unix.Close(p.fd) }

// Exists reports whether the process exists, even as a zombie, which still has its ID.
func (p *Process) Exists() bool {
	err := unix.PidfdSendSignal(p.fd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// Signal sends a signal. If the process has exited, it does nothing.
func (p *Process) Signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// ended returns a channel that is closed when the process of a pidfd exits. The
// caller may close the pidfd.
func ended(pidfd int) (<-chan struct{}, error) {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate a pidfd: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer func() { _ = unix.Close(fd) }()
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return gone, nil
}

// UserOf returns the user ID of a process. It returns an error if the real, effective,
// saved and file system IDs differ, proc_pid_status(5). The owner of /proc/PID would
// not do: it is root for a process that is not dumpable.
func UserOf(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		label, rest, _ := strings.Cut(line, ":")
		if label != "Uid" {
			continue
		}
		ids := strings.Fields(rest)
		if len(slices.Compact(ids)) != 1 {
			return 0, fmt.Errorf("process %d has several user IDs", pid)
		}
		return strconv.Atoi(ids[0])
	}
	return 0, fmt.Errorf("/proc/%d/status has no user IDs", pid)
}

// SameUnit reports whether a process belongs to the unit of this process.
func SameUnit(pid int) bool {
	// The control processes of a unit with Delegate= are in a cgroup of their own.
	const control = "/.control"
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return true
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	return bytes.Equal(bytes.ReplaceAll(ours, []byte(control), nil), theirs)
}

// Self returns the path of this program, by which ps and the journal name a child. It
// is /proc/self/exe if the file was replaced.
func Self() string {
	path, err := os.Executable()
	if err != nil || unix.Access(path, unix.X_OK) != nil {
		return "/proc/self/exe"
	}
	return path
}
