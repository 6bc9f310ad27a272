// Package console attaches people to a VM's serial console.
//
// A hypervisor serves one client of its console at a time. So the first who
// attaches serves the others, for as long as it is there: they see what it
// sees, and when it leaves one of them takes its place. No process has to stay
// for that.
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
	// history is what one who attaches later gets to see of before.
	history = 8 << 10
	// patience is how long a reader may keep the others waiting.
	patience = 200 * time.Millisecond
)

// ErrClosed says that the VM went down.
var ErrClosed = errors.New("the VM went down")

// Session is one person's, or one program's, at a console.
type Session struct {
	// Dir is the VM's state directory, Socket the console's in it.
	Dir, Socket string
	// Meeting is the path of the socket on which the first serves the others.
	// Only root may be able to write its directory.
	Meeting string
	In      io.Reader
	Out     io.Writer
	// Interactive says that In is a terminal, where Escape ends the session.
	Interactive bool
	// Say tells the person something.
	Say func(format string, args ...any)
	// Sizes gets text to type whenever the terminal's size changes; nil for none.
	Sizes <-chan string

	mu sync.Mutex
	// turn is told of each change of to.
	turn *sync.Cond
	// to is where keys go: the console, or nil in one who only reads.
	to     io.Writer
	warned bool
	// attached says that we lead or follow.
	attached bool
}

// Run attaches until the person leaves, which is no error, the VM goes down,
// which is ErrClosed, or ctx ends.
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
			// The one who served us left because of that.
			return ErrClosed
		}
		return err
	}
}

// errLeft says that the one who served us has left.
var errLeft = errors.New("the other console has left")

func gone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// attach leads or follows.
func (s *Session) attach(ctx context.Context) error {
	listener, other, err := s.meet()
	if err != nil {
		return err
	}
	if other != nil {
		return s.follow(ctx, other)
	}
	defer func() { _ = listener.Close() }() // removes the socket as well
	return s.lead(ctx, listener)
}

// meet finds the one who leads, or becomes it. The directory is locked while
// nobody knows who that is.
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
	// Of one who was killed.
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

// follow shows what the one who leads sees.
func (s *Session) follow(ctx context.Context, conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.Say("another console is attached and has the keyboard; this one reads, and takes over when that one leaves")
	s.keysTo(nil)
	if _, err := io.Copy(s.Out, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return errLeft
}

// lead is connected to the hypervisor and serves those who come later.
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
			return fmt.Errorf("write what the console says: %w", err)
		}
		if err != nil {
			return ErrClosed
		}
	}
}

// keysTo sets where keys go; nil for nowhere.
func (s *Session) keysTo(to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.warned, s.attached = to, false, true
	s.turn.Broadcast()
}

// keys reads what is typed until its end, or calls leave at Escape.
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
				leave() // the terminal is gone
			}
			return
		}
	}
}

// send types keys. A person who only reads is told so; a program's wait until it
// is their turn, for it does not look.
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
		s.Say("this console only reads; leave it with ctrl-]")
	}
	if to != nil {
		_, _ = to.Write(typed) // where the VM is gone, reading says so
	}
}

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

// readers are those who are served by one who leads.
type readers struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	past  []byte
	ended bool
}

func (r *readers) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		r.add(conn)
	}
}

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

// write gives what the console said to all; one who does not take it is left
// behind, for nobody is to wait for a terminal that was stopped.
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
