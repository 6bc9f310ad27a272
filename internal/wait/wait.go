// Package wait waits for interfaces, devices and modules that a host may have a moment
// later. It waits for events, for a limited time, and reports what it waits for.
package wait

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/notify"
	"microvm/internal/printable"
)

const (
	// Variable is the environment variable that sets the limit, in seconds; 0 disables
	// all waits.
	Variable = "MICROVM_WAIT"
	// Default is the limit if Variable is not set.
	Default = 30 * time.Second
	// maxSeconds keeps a limit within the range of sd_notify(3).
	maxSeconds = 24 * 60 * 60
	// quiet is how long a wait is not logged.
	quiet = time.Second
	// spare is how much time the service manager is asked for beyond the wait.
	spare = 60 * time.Second
	// pollPause is the time between two checks if there are no events.
	pollPause = 250 * time.Millisecond
)

// StatusPrefix begins the status of a unit that waits.
const StatusPrefix = "waiting for "

// ErrNotThere means that the time ended before the wait did.
var ErrNotThere = errors.New("not found")

// Events opens a file that becomes readable whenever a condition should be checked
// again. Closing the file must end a read of it.
type Events func() (*os.File, error)

// Patience is how long one program waits, in all its waits together.
type Patience struct {
	// Limit is how long; 0 disables all waits.
	Limit time.Duration
	// Notify is the service manager's socket, or "".
	Notify string
	// Log logs a wait that takes more than a moment; it may be nil.
	Log func(line string)

	deadline time.Time
}

// WithHint adds to err, which wraps ErrNotThere, the hint on how to wait longer.
func (p *Patience) WithHint(err error) error {
	return exit.WithHint(err, "to wait longer than %.0f s, set %s", p.Limit.Seconds(), Variable)
}

// FromEnv returns the Patience with the environment's limit and socket. log may be nil.
func FromEnv(log func(string)) (*Patience, error) {
	p := &Patience{Limit: Default, Notify: notify.Socket(), Log: log}
	text, set := os.LookupEnv(Variable)
	if !set || text == "" {
		return p, nil
	}
	s, err := strconv.Atoi(text)
	if err != nil || s < 0 || s > maxSeconds {
		return nil, exit.WithHint(fmt.Errorf("invalid %s %q: must be a number of seconds from 0 to %d", Variable, text, maxSeconds),
			"correct it in Environment= of the unit, for instance to %.0f", Default.Seconds())
	}
	p.Limit = time.Duration(s) * time.Second
	return p, nil
}

// For waits until ready returns true or an error, which it then returns. It calls ready
// again at each event; it opens events before a call, so none is lost. It returns
// ErrNotThere when the time is over, and the error of ctx if that ends.
func (p *Patience) For(ctx context.Context, what string, ready func() (bool, error), events ...Events) error {
	if ok, err := ready(); ok || err != nil {
		return err
	}
	what = printable.Line(what) // a status has one line
	if p.Limit <= 0 {
		return ErrNotThere
	}
	if p.deadline.IsZero() {
		p.deadline = time.Now().Add(p.Limit)
	}
	changed, closeEvents := open(events)
	defer closeEvents()
	left := time.Until(p.deadline)
	// The status is cleared after the wait: the next step may have another one.
	extend := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (left + spare).Microseconds())
	if err := notify.Send(p.Notify, "STATUS="+StatusPrefix+what, extend); err != nil {
		return err
	}
	err := p.until(ctx, what, left, ready, changed)
	if told := notify.Send(p.Notify, "STATUS="); err == nil {
		return told
	}
	// This program is about to end, and the manager has to read the message while its
	// sender exists. If it is too busy, the status stays, which does no harm.
	_ = notify.Barrier(p.Notify, quiet)
	return err
}

func (p *Patience) until(ctx context.Context, what string, left time.Duration, ready func() (bool, error), changed <-chan struct{}) error {
	over := time.NewTimer(left)
	defer over.Stop()
	long := time.NewTimer(quiet)
	defer long.Stop()
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted while waiting for %s: %w", what, context.Cause(ctx))
		case <-over.C:
			// A last check: it may have come just now.
			if ok, err := ready(); ok || err != nil {
				return err
			}
			return ErrNotThere
		case <-long.C:
			if p.Log != nil {
				p.Log(fmt.Sprintf("%s%s, %.0f s at most", StatusPrefix, what, p.Limit.Seconds()))
			}
		case <-changed:
		}
	}
}

// open listens to all events. changed has room for one value, as only one is needed to
// check again. closeAll closes the files.
func open(events []Events) (changed <-chan struct{}, closeAll func()) {
	poke := make(chan struct{}, 1)
	done := make(chan struct{})
	var files []*os.File
	silent := len(events) == 0
	for _, e := range events {
		f, err := e()
		if err != nil {
			silent = true // a sandbox may forbid it
			continue
		}
		files = append(files, f)
		go follow(f, poke)
	}
	if silent {
		go poll(done, poke)
	}
	return poke, func() {
		close(done)
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// follow sends to poke whenever f is readable, until f is closed.
func follow(f *os.File, poke chan<- struct{}) {
	buf := make([]byte, 16<<10)
	for {
		_, err := f.Read(buf)
		// ENOBUFS means that events were lost, which is an event as well.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		send(poke)
	}
}

// poll sends to poke now and then, until done is closed.
func poll(done <-chan struct{}, poke chan<- struct{}) {
	tick := time.NewTicker(pollPause)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			send(poke)
		}
	}
}

// send sends to poke, unless that is full.
func send(poke chan<- struct{}) {
	select {
	case poke <- struct{}{}:
	default:
	}
}

// Dir returns the events of the directory dir: a file was created, renamed or removed,
// or got another owner or mode, inotify(7). If dir does not exist, it returns those of
// the closest directory above it that does.
func Dir(dir string) Events {
	return func() (*os.File, error) {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", dir, err)
		}
		const mask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB
		for at := dir; ; at = filepath.Dir(at) {
			_, err = unix.InotifyAddWatch(fd, at, mask)
			if !errors.Is(err, unix.ENOENT) || at == "/" || at == "." {
				break
			}
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("watch %s: %w", dir, err)
		}
		return os.NewFile(uintptr(fd), "inotify"), nil
	}
}

// InDir calls done, and again at each change in the directory dir, until done returns
// true or an error, or ctx ends. It returns the error of done or ctx. dir must exist.
func InDir(ctx context.Context, dir string, done func() (bool, error)) error {
	events, err := Dir(dir)()
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
}

// Usable reports whether a device can be opened, or would fail for a lasting reason,
// which its user then reports. It returns false while the module of a static node is
// not loaded, depmod(8), and while udev has not yet given access to other users.
func Usable(path string, flags int) bool {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		_ = unix.Close(fd)
		return true
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return false
	case errors.Is(err, unix.EACCES):
		return UdevIdle()
	}
	return true
}

// udevQueue exists while udev is busy; udevadm settle waits until it does not,
// udevadm(8).
const udevQueue = "/run/udev/queue"

// UdevIdle reports whether udev has processed all devices, or is not running.
func UdevIdle() bool {
	_, err := os.Stat(udevQueue)
	return err != nil
}

// UdevQueue returns the events of changes of UdevIdle.
func UdevQueue() Events { return Dir(filepath.Dir(udevQueue)) }
