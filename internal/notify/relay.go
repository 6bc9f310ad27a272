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

// Bounds on what a guest, which may be hostile, can make us take.
const (
	maxMessage = 4096 // systemd's own guests send far less
	maxStatus  = 256  // bytes of a STATUS text
	// readTimeout is for a guest that says half a message. One writes and shuts down
	// at once, but on a busy host it may be a while until it comes to it, and a
	// READY=1 that is lost is not said again.
	readTimeout = 30 * time.Second
	maxParallel = 64
	maxRate     = 200 // messages a second that are passed on

	// linger is for what a guest says right after READY=1: that it is read, and
	// the connection closed as the guest expects. READY=1 itself does not wait.
	linger = 50 * time.Millisecond
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
// waits for that, and in parallel, so that a slow one holds up no other. In the
// end it closes the listener.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// This wakes accept, too, which has then nothing more to do.
	defer func() { _ = r.Listener.Close() }()
	messages := make(chan []string, maxParallel)
	failed := make(chan error, 1)
	go func() { failed <- r.accept(ctx, messages) }()
	budget := budget{rate: maxRate}
	var ready <-chan time.Time // until then nil, which never is
	for {
		select {
		case m := <-messages:
			says := slices.Contains(m, "READY=1")
			if !says && !budget.take(time.Now()) {
				continue
			}
			if err := r.Forward(m); err != nil {
				return err
			}
			if says && ready == nil {
				ready = time.After(linger)
			}
		case <-ready:
			return nil
		case <-ctx.Done():
			return ended(ready != nil, ctx.Err())
		case err := <-failed:
			return ended(ready != nil, fmt.Errorf("wait for the guest's notifications: %w", err))
		}
	}
}

// ended is what the end of waiting means: nothing any more after READY=1.
func ended(ready bool, err error) error {
	if ready {
		return nil
	}
	return err
}

// accept takes connections and reads each on its own.
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

// take reads a connection's message, closes it and passes the message on. Where
// there is room, it does so before it closes: a guest that waits for the end
// of one notification before the next finds them passed on in that order.
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

func (r *Relay) fromGuest(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*vsock.Addr)
	return !ok || r.CID == 0 || addr.ContextID == r.CID
}

// receive reads one message.
func receive(conn net.Conn) []byte {
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return nil
	}
	// What has arrived counts, however the connection ends.
	data, _ := io.ReadAll(io.LimitReader(conn, maxMessage))
	return data
}

// Parse returns the assignments of a message that are passed on: READY,
// STATUS, STOPPING, EXIT_STATUS and ERRNO. Anything else is dropped: MAINPID=
// or FDSTORE=, say, are no guest's to set.
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

// budget lets so many events through a second.
type budget struct {
	rate, left int
	until      time.Time
}

func (b *budget) take(now time.Time) bool {
	if now.After(b.until) {
		b.left, b.until = b.rate, now.Add(time.Second)
	}
	b.left--
	return b.left >= 0
}
