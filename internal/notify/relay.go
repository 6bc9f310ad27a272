package notify

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/vsock"

	"microvm/internal/printable"
)

// Bounds on what is accepted from a guest, which may be hostile.
const (
	maxMessage = 4096 // bytes; systemd in a guest sends far less
	maxStatus  = 256  // bytes of a STATUS text
	// readTimeout is for a guest that sends an incomplete message. A guest writes and
	// shuts down at once, but a busy host may delay that, and a lost READY=1 is not
	// sent again.
	readTimeout = 30 * time.Second
	maxParallel = 64  // connections
	maxRate     = 200 // messages a second that are forwarded

	// linger is how long messages are still accepted after READY=1: the guest expects
	// that each is read and its connection closed. It does not delay READY=1.
	linger = 50 * time.Millisecond
)

// Relay forwards a guest's notifications until READY=1.
type Relay struct {
	// Listener accepts the guest's connections: on vsock, or on the Unix socket that a
	// hypervisor's multiplexer connects to.
	Listener net.Listener
	// CID is the only vsock address that is accepted; 0 accepts all.
	CID uint32
	// Forward is called with the assignments of a message that Parse returns, from one
	// goroutine.
	Forward func(assignments []string) error
}

// Run forwards messages until READY=1 was forwarded, ctx ends, or forwarding fails.
// Each connection is read and closed at once, as the guest's PID 1 waits for that, and
// in parallel, so a slow one delays no other. Run closes the listener.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// This also ends accept.
	defer func() { _ = r.Listener.Close() }()
	messages := make(chan []string, maxParallel)
	failed := make(chan error, 1)
	go func() { failed <- r.accept(ctx, messages) }()
	budget := budget{rate: maxRate}
	var done <-chan time.Time // nil, which blocks, until READY=1
	for {
		select {
		case m := <-messages:
			ready := slices.Contains(m, "READY=1")
			if !ready && !budget.take(time.Now()) {
				continue
			}
			if err := r.Forward(m); err != nil {
				return err
			}
			if ready && done == nil {
				done = time.After(linger)
			}
		case <-done:
			return nil
		case <-ctx.Done():
			return unlessReady(done != nil, ctx.Err())
		case err := <-failed:
			return unlessReady(done != nil, fmt.Errorf("accept the guest's notifications: %w", err))
		}
	}
}

// unlessReady returns err, or nil after READY=1, when an error no longer matters.
func unlessReady(ready bool, err error) error {
	if ready {
		return nil
	}
	return err
}

// accept accepts connections and reads each in a goroutine of its own.
func (r *Relay) accept(ctx context.Context, messages chan<- []string) error {
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
			defer func() { <-slots }()
			take(ctx, conn, messages)
		}()
	}
}

// take reads a connection's message, closes the connection and passes the message on.
// If messages has room, it passes the message on first: the messages of a guest that
// waits for each connection to be closed then keep their order.
func take(ctx context.Context, conn net.Conn, messages chan<- []string) {
	m := Parse(receive(conn))
	if len(m) == 0 {
		_ = conn.Close()
		return
	}
	queued := false
	select {
	case messages <- m:
		queued = true
	default:
	}
	_ = conn.Close()
	if queued {
		return
	}
	select {
	case messages <- m:
	case <-ctx.Done():
	}
}

// fromGuest reports whether a connection is from the guest, as far as its type tells.
func (r *Relay) fromGuest(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*vsock.Addr)
	return !ok || r.CID == 0 || addr.ContextID == r.CID
}

// receive reads one message.
func receive(conn net.Conn) []byte {
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return nil
	}
	// However the connection ends, the data counts.
	data, _ := io.ReadAll(io.LimitReader(conn, maxMessage))
	return data
}

// Parse returns the assignments of a message that are forwarded: READY, STATUS,
// STOPPING, EXIT_STATUS and ERRNO. It drops all others: a guest must not set MAINPID=
// or FDSTORE=, for instance.
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
			out = append(out, "STATUS="+printable.Short(value, maxStatus))
		case "EXIT_STATUS", "ERRNO":
			if value != "" && len(value) <= 3 && strings.Trim(value, "0123456789") == "" {
				out = append(out, name+"="+value)
			}
		}
	}
	return out
}

// budget allows rate events a second.
type budget struct {
	rate, left int
	until      time.Time
}

// take reports whether an event at that time is allowed.
func (b *budget) take(now time.Time) bool {
	if now.After(b.until) {
		b.left, b.until = b.rate, now.Add(time.Second)
	}
	b.left--
	return b.left >= 0
}
