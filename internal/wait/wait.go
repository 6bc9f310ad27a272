// Package wait waits for what a host has a moment later: an interface, a device,
// a module. It waits by event, for a bounded time, and says what for.
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
	// Variable is the environment variable that sets the limit, in seconds; 0
	// means that nothing is waited for.
	Variable = "MICROVM_WAIT"
	// Default is the limit where Variable is not set.
	Default = 30 * time.Second
	// maxSeconds keeps a limit below what sd_notify(3) counts, and sane.
	maxSeconds = 24 * 60 * 60
	// quiet is how long a wait is not worth a line.
	quiet = time.Second
	// spare is how much time beyond the wait the service manager is asked for.
	spare = 60 * time.Second
	// pollPause is between two looks where no event can be had.
	pollPause = 250 * time.Millisecond
)

// StatusPrefix begins the status of a unit that waits.
const StatusPrefix = "waiting for "

// ErrNotThere is that the time was over before what was waited for came.
var ErrNotThere = errors.New("not found")

// Events opens what is readable whenever it is worth to look again. Files that do
// not end a read when they are closed will not do.
type Events func() (*os.File, error)

// Patience is how long one program waits, for all things together.
type Patience struct {
	// Limit is how long; 0 means that nothing is waited for.
	Limit time.Duration
	// Notify is the service manager's socket, or "".
	Notify string
	// Log, where it is not nil, gets a line about a wait that takes a while.
	Log func(line string)

	deadline time.Time
}

// FromEnv is the patience that the environment asks for.
func FromEnv(log func(string)) (*Patience, error) {
	p := &Patience{Limit: Default, Notify: notify.Socket(), Log: log}
	text, set := os.LookupEnv(Variable)
	if !set || text == "" {
		return p, nil
	}
	s, err := strconv.Atoi(text)
	if err != nil || s < 0 || s > maxSeconds {
		return nil, exit.WithHint(fmt.Errorf("%s is %q, which is no number of seconds from 0 to %d", Variable, text, maxSeconds),
			"correct it in Environment= of the unit, for instance to %.0f", Default.Seconds())
	}
	p.Limit = time.Duration(s) * time.Second
	return p, nil
}

// For waits until ready says yes or fails. It looks again at each of the events,
// which it listens to before it looks, so that none is lost. The error is
// ErrNotThere when the time is over, and ctx's when that ends.
func (p *Patience) For(ctx context.Context, what string, ready func() (bool, error), events ...Events) error {
	if ok, err := ready(); ok || err != nil {
		return err
	}
	what = printable.Line(what) // one line of the status is its last
	if p.Limit <= 0 {
		return ErrNotThere
	}
	if p.deadline.IsZero() {
		p.deadline = time.Now().Add(p.Limit)
	}
	changed, closeEvents := open(events)
	defer closeEvents()
	left := time.Until(p.deadline)
	// The status goes when the wait does: what the unit does next has its own.
	extend := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (left + spare).Microseconds())
	if err := notify.Send(p.Notify, "STATUS="+StatusPrefix+what, extend); err != nil {
		return err
	}
	err := p.until(ctx, what, left, ready, changed)
	if told := notify.Send(p.Notify, "STATUS="); err == nil {
		return told
	}
	// This program is about to end, and the manager would not know any more who
	// has sent this. One that is too busy for it keeps the status; that is all.
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
			// It may have come with the end of the time.
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

// open listens to all events. The channel has room for one: that there was one
// is all that counts.
func open(events []Events) (changed <-chan struct{}, closeAll func()) {
	poke := make(chan struct{}, 1)
	done := make(chan struct{})
	var files []*os.File
	silent := len(events) == 0
	for _, e := range events {
		f, err := e()
		if err != nil {
			silent = true // a sandbox that forbids it
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

// follow passes on that f was readable, until it is closed.
func follow(f *os.File, poke chan<- struct{}) {
	buf := make([]byte, 16<<10)
	for {
		_, err := f.Read(buf)
		// More happened than the kernel keeps: reason enough to look.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		send(poke)
	}
}

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

func send(poke chan<- struct{}) {
	select {
	case poke <- struct{}{}:
	default:
	}
}

// Dir is readable when something in the directory dir came, went, or got another
// owner or mode, inotify(7); where there is no such directory yet, when it may
// have come.
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

// InDir calls done, and again at each change in the directory dir, until it returns true
// or an error, or ctx ends, whose error it then returns. The directory has to exist.
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

// Usable says whether a device can be opened. A node may be there before its
// module (static nodes, depmod(8)), and before udev lets others than root
// open it. Anything but that is for who uses the device to say.
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

// udevQueue exists while udev has something to do; udevadm settle waits for its
// end, udevadm(8).
const udevQueue = "/run/udev/queue"

// UdevIdle says that udev has dealt with all devices that there are. Where there
// is no udev, that is so.
func UdevIdle() bool {
	_, err := os.Stat(udevQueue)
	return err != nil
}

// UdevQueue is readable when UdevIdle may have changed.
func UdevQueue() Events { return Dir(filepath.Dir(udevQueue)) }
