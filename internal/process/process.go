// Package process holds other processes by a descriptor that cannot come to mean
// another one, pidfd_open(2), and says what /proc has of them.
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

// Process is a process that is held. Its number means no other for as long as
// Exists reports true.
type Process struct {
	pid, fd int
	gone    <-chan struct{}
}

// Hold holds the process of that number until Release. It returns nil where there
// is none.
func Hold(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	gone, err := ended(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Process{pid: pid, fd: fd, gone: gone}, nil
}

// HoldInUnit is Hold for a process of the unit that this one is of. It returns nil
// for one of another unit, too: the number may mean another process since the
// service manager told it to us.
func HoldInUnit(pid int) (*Process, error) {
	// Held before it is looked at, so that it is what was looked at.
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

// PID returns its number.
func (p *Process) PID() int { return p.pid }

// Gone returns a channel that is closed when the process has ended. That happens
// after Release as well.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Release ends the hold.
func (p *Process) Release() { _ = unix.Close(p.fd) }

// Exists reports whether the process is there, if only as a zombie: its number is
// its own then.
func (p *Process) Exists() bool {
	err := unix.PidfdSendSignal(p.fd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// Signal sends a signal. A process that has ended takes it without an error.
func (p *Process) Signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// ended returns a channel that is closed when the process of a pidfd is gone. The
// pidfd stays the caller's.
func ended(pidfd int) (<-chan struct{}, error) {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch a process: %w", err)
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

// UserOf returns the user of a process, whose real, effective, saved and file
// system IDs have to be the same, proc_pid_status(5). The owner of /proc/PID is not
// asked: it is root for a process that may not be dumped.
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
			return 0, errors.New("it has several users")
		}
		return strconv.Atoi(ids[0])
	}
	return 0, errors.New("it has no user")
}

// SameUnit reports whether a process is of the unit that this one is of.
func SameUnit(pid int) bool {
	// A unit with Delegate= has its control processes in a group of their own.
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

// Self returns the path of this program. A name of its own makes a child known by
// that in ps and in the journal.
func Self() string {
	path, err := os.Executable()
	if err != nil || unix.Access(path, unix.X_OK) != nil {
		return "/proc/self/exe" // replaced while it runs
	}
	return path
}
