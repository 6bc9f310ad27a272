// Package process holds other processes by a descriptor that cannot come to mean
// another one, pidfd_open(2), and says what /proc has of them.
package process

import (
	"errors"
	"fmt"
	"os"

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

// Self returns the path of this program. A name of its own makes a child known by
// that in ps and in the journal.
func Self() string {
	path, err := os.Executable()
	if err != nil || unix.Access(path, unix.X_OK) != nil {
		return "/proc/self/exe" // replaced while it runs
	}
	return path
}
