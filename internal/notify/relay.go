package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mdlayher/vsock"
)

// Bounds on what a guest, which may be hostile, can make us take.
const (
	maxMessage  = 4096                   // systemd's own guests send far less
	maxStatus   = 256                    // bytes of a STATUS text
	readTimeout = 500 * time.Millisecond // a guest writes and shuts down at once
	maxParallel = 64
	maxRate     = 200 // messages a second that are passed on
)

// Relay passes a guest's notifications on until it says READY=1.
type Relay struct {
	// Listener is where the guest reports: vsock, or the Unix socket that a
	// hypervisor's multiplexer connects to.
	Listener net.Listener
	// CID, where not 0, is the only vsock address that is listened to.
	CID uint32
	// Forward gets the assignments of one message, those that are passed on. It
	// is called from one goroutine.
	Forward func(assignments []string) error
}

// Run takes messages until READY=1 was forwarded, ctx ends, or forwarding
// fails. Each connection is read and closed at once, because the guest's PID 1
// waits for that, and in parallel, so that a slow one holds up no other.
func (r *Relay) Run(ctx context.Context) error {
	messages := make(chan []string, maxParallel)
	stop := context.AfterFunc(ctx, func() { _ = r.Listener.Close() })
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- r.accept(messages) }()
	budget := newBudget(maxRate)
	for {
		select {
		case m := <-messages:
			ready := contains(m, "READY=1")
			if !ready && !budget.take() {
				continue
			}
			if err := r.Forward(m); err != nil {
				return err
			}
			if ready {
				return nil
			}
		case err := <-failed:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for the guest's notifications: %w", err)
		}
	}
}

// accept takes connections and reads each on its own.
func (r *Relay) accept(messages chan<- []string) error {
	slots := make(chan struct{}, maxParallel)
	for {
		conn, err := r.Listener.Accept()
		if err != nil {
			return err
		}
		if !r.fromGuest(conn) {
			_ = conn.Close()
			continue
		}
		slots <- struct{}{}
		go func() {
			data := receive(conn)
			<-slots
			if m := Parse(data); len(m) > 0 {
				messages <- m
			}
		}()
	}
}

func (r *Relay) fromGuest(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*vsock.Addr)
	return !ok || r.CID == 0 || addr.ContextID == r.CID
}

// receive reads one message and closes the connection.
func receive(conn net.Conn) []byte {
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return nil
	}
	// What has arrived counts, however the connection ends.
	data, _ := io.ReadAll(io.LimitReader(conn, maxMessage))
	return data
}

// Parse returns the assignments of a message that are passed on: READY,
// STATUS, STOPPING, EXIT_STATUS and ERRNO. Anything else is dropped.
func Parse(data []byte) []string {
	var out []string
	for line := range bytes.Lines(data) {
		name, value, found := strings.Cut(strings.TrimRight(string(line), "\n"), "=")
		if !found {
			continue
		}
		switch name {
		case "READY", "STOPPING":
			if value == "1" {
				out = append(out, name+"=1")
			}
		case "STATUS":
			out = append(out, "STATUS="+printable(value))
		case "EXIT_STATUS", "ERRNO":
			if value != "" && len(value) <= 3 && strings.Trim(value, "0123456789") == "" {
				out = append(out, name+"="+value)
			}
		}
	}
	return out
}

// printable makes a guest's text safe for a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	for len(s) > maxStatus {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// budget lets so many events through a second.
type budget struct {
	rate, left int
	until      time.Time
}

func newBudget(rate int) *budget { return &budget{rate: rate} }

func (b *budget) take() bool {
	if now := time.Now(); now.After(b.until) {
		b.left, b.until = b.rate, now.Add(time.Second)
	}
	b.left--
	return b.left >= 0
}

// ErrNoVsock says that the host has no vsock for guests.
var ErrNoVsock = errors.New("the host has no vsock; load the module with: modprobe vhost_vsock")
