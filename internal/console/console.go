// Package console attaches users to a VM's serial console.
//
// A hypervisor serves one client of its console at a time. So the first session leads
// and serves the others: they see the same output, and when the leader leaves, one of
// them takes its place. That needs no resident process.
package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/rootlock"
	"microvm/internal/safepath"
)

// Escape is ctrl-], which ends a session, as in telnet(1).
const Escape = 0x1d

const (
	// history is how many bytes of earlier output a new session sees.
	history = 8 << 10
	// patience is how long a reader may delay the others.
	patience = 200 * time.Millisecond
)

// ErrClosed means that the VM went down.
var ErrClosed = errors.New("the VM went down")

// Session is the session of a user, or of a program, at a console.
type Session struct {
	// Dir is the VM's state directory, Socket the console's socket in it.
	Dir, Socket string
	// Meeting is the path of the socket on which the leader serves the others. Its
	// directory must be writable for root only.
	Meeting string
	In      io.Reader
	Out     io.Writer
	// Interactive means that In is a terminal, where Escape ends the session.
	Interactive bool
	// Say prints a message for the user.
	Say func(format string, args ...any)
	// Sizes receives text to type whenever the terminal's size changes; it may be nil.
	Sizes <-chan string

	mu sync.Mutex
	// turn is signalled when to or attached changes.
	turn *sync.Cond
	// to receives what is typed: the console, or nil in a session that only reads.
	to     io.Writer
	warned bool
	// attached means that the session leads or follows.
	attached bool
}

// Run attaches until the user leaves or ctx ends, when it returns nil, or the VM goes
// down, when it returns ErrClosed.
func (s *Session) Run(ctx context.Context) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	s.turn = sync.NewCond(&s.mu)
	go s.keys(leave)
	for attached := false; ; attached = true {
		err := s.attach(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLeft):
			continue
		case err != nil && attached && gone(err):
			// The leader left because the VM went down.
			return ErrClosed
		}
		return err
	}
}

// errLeft means that the leader has left.
var errLeft = errors.New("the leading session has ended")

// gone reports whether err means that no process listens on a Unix socket.
func gone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// attach leads or follows, until the leader or the VM ends.
func (s *Session) attach(ctx context.Context) error {
	listener, other, err := s.meet()
	if err != nil {
		return err
	}
	if other != nil {
		return s.follow(ctx, other)
	}
	defer func() { _ = listener.Close() }() // also removes the socket
	return s.lead(ctx, listener)
}

// meet returns a connection to the leader, or a listener if this session becomes the
// leader. It locks the directory meanwhile, so that only one session does.
func (s *Session) meet() (net.Listener, net.Conn, error) {
	unlock, err := rootlock.Take(filepath.Dir(s.Meeting))
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	conn, err := net.Dial("unix", s.Meeting)
	if err == nil {
		return nil, conn, nil
	}
	if !gone(err) {
		return nil, nil, err
	}
	// The socket of a leader that was killed.
	if err := os.Remove(s.Meeting); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	listener, err := net.Listen("unix", s.Meeting)
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(s.Meeting, 0o600); err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return listener, nil, nil
}

// follow shows the output that the leader passes on, until that leaves.
func (s *Session) follow(ctx context.Context, conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.Say("another console is attached and has the keyboard; this one is read-only until that one detaches")
	s.keysTo(nil)
	if _, err := io.Copy(s.Out, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return errLeft
}

// lead connects to the hypervisor and serves the sessions that come later.
func (s *Session) lead(ctx context.Context, listener net.Listener) error {
	conn, err := safepath.DialBeneath(ctx, s.Dir, s.Socket, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.keysTo(conn)
	defer s.keysTo(nil)
	r := &readers{}
	defer r.close()
	go r.accept(listener)
	go s.sizes(ctx)
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		r.write(buf[:n])
		if _, err := s.Out.Write(buf[:n]); err != nil {
			return fmt.Errorf("write the console's output: %w", err)
		}
		if err != nil {
			return ErrClosed
		}
	}
}

// keysTo sets the receiver of what is typed; nil makes the session read-only.
func (s *Session) keysTo(to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.warned, s.attached = to, false, true
	s.turn.Broadcast()
}

// keys reads and sends what is typed until its end. It calls leave at Escape.
func (s *Session) keys(leave func()) {
	buf := make([]byte, 4<<10)
	for {
		n, err := s.In.Read(buf)
		typed := buf[:n]
		end := -1
		if s.Interactive {
			end = bytes.IndexByte(typed, Escape)
		}
		if end >= 0 {
			typed = typed[:end]
		}
		s.send(typed)
		if end >= 0 {
			leave()
			return
		}
		if err != nil {
			if s.Interactive {
				leave() // the terminal was closed
			}
			return
		}
	}
}

// send types keys. In a session that only reads, it warns a user; the keys of a
// program, which would not notice, wait until the session leads.
func (s *Session) send(typed []byte) {
	if len(typed) == 0 {
		return
	}
	s.mu.Lock()
	for !s.attached || !s.Interactive && s.to == nil {
		s.turn.Wait()
	}
	to := s.to
	tell := to == nil && !s.warned
	s.warned = s.warned || tell
	s.mu.Unlock()
	if tell {
		s.Say("this console is read-only; detach with ctrl-]")
	}
	if to != nil {
		_, _ = to.Write(typed) // if the VM went down, reading reports it
	}
}

// sizes types the terminal's sizes until ctx ends.
func (s *Session) sizes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case text := <-s.Sizes:
			s.send([]byte(text))
		}
	}
}

// readers are the sessions that a leader serves.
type readers struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	past  []byte
	ended bool
}

// accept adds readers until the listener is closed.
func (r *readers) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		r.add(conn)
	}
}

// add sends the history to a new reader, and adds it.
func (r *readers) add(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || !give(conn, r.past) {
		_ = conn.Close()
		return
	}
	if r.conns == nil {
		r.conns = map[net.Conn]bool{}
	}
	r.conns[conn] = true
}

// write sends output of the console to all readers. It closes those that do not read
// in time, for instance in a stopped terminal, as the others must not wait.
func (r *readers) write(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past = append(r.past, data...)
	if over := len(r.past) - history; over > 0 {
		r.past = append(r.past[:0:0], r.past[over:]...)
	}
	for conn := range r.conns {
		if !give(conn, data) {
			_ = conn.Close()
			delete(r.conns, conn)
		}
	}
}

// give writes data within patience, and reports whether that succeeded.
func give(conn net.Conn, data []byte) bool {
	if len(data) == 0 {
		return true
	}
	_ = conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := conn.Write(data)
	return err == nil
}

func (r *readers) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for conn := range r.conns {
		_ = conn.Close()
	}
}
