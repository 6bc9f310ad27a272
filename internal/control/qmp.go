package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// maxLine bounds one message, in bytes. QEMU's longest ones, the greeting and lists of
// devices, have a few kilobytes.
const maxLine = 1 << 20

// QMP is a client of QEMU's machine protocol (QEMU's qmp-spec). QEMU serves one connection
// at a time: open late, close early.
type QMP struct {
	conn net.Conn
	in   *bufio.Reader
	// partial is the beginning of a line that has not been read completely.
	partial []byte
	events  []Event
}

// Event is an asynchronous message of QEMU.
type Event struct {
	Name string `json:"event"`
	Data struct {
		Reason string `json:"reason"`
		Guest  bool   `json:"guest"`
	} `json:"data"`
}

// message is any message of QEMU.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

// DialQMP connects to the socket beneath dir and negotiates capabilities. The context bounds
// only this call. The caller must close the connection.
func DialQMP(ctx context.Context, dir, socket string) (*QMP, error) {
	conn, err := safepath.DialBeneath(ctx, dir, socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("QMP socket: %w", err)
	}
	q := &QMP{conn: conn, in: bufio.NewReader(conn)}
	if err := q.negotiate(ctx); err != nil {
		return nil, fmt.Errorf("QMP socket %s: %w", filepath.Join(dir, socket), errors.Join(err, conn.Close()))
	}
	return q, nil
}

func (q *QMP) negotiate(ctx context.Context) error {
	m, err := q.next(ctx)
	if err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	if m.Greeting == nil {
		return otherProgram(errors.New("the greeting is not QEMU's"))
	}
	return q.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Close ends the connection.
func (q *QMP) Close() error { return q.conn.Close() }

// bound makes reads and writes on the connection end when ctx does, until the returned
// function is called.
func (q *QMP) bound(ctx context.Context) func() {
	_ = q.conn.SetDeadline(time.Time{})
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		// A deadline in the past ends a read or write that waits.
		_ = q.conn.SetDeadline(time.Unix(1, 0))
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired // or it would hit the next call
		}
	}
}

// next reads one message, until the context ends.
func (q *QMP) next(ctx context.Context) (*message, error) {
	line, err := q.line(ctx)
	if err != nil {
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("invalid message: %w", err)
	}
	return m, nil
}

// line reads one line. If the context ends within a line, its beginning is kept for the next
// call.
func (q *QMP) line(ctx context.Context) ([]byte, error) {
	defer q.bound(ctx)()
	for {
		part, err := q.in.ReadSlice('\n')
		q.partial = append(q.partial, part...)
		switch {
		case ctx.Err() != nil && err != nil:
			return nil, ctx.Err()
		case len(q.partial) > maxLine:
			return nil, fmt.Errorf("a message is longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil, errors.New("the hypervisor closed the connection")
		case err != nil:
			return nil, err
		}
		line := q.partial
		q.partial = nil
		return line, nil
	}
}

// send writes a command.
func (q *QMP) send(ctx context.Context, request []byte) error {
	defer q.bound(ctx)()
	_, err := q.conn.Write(append(request, '\n'))
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Execute runs a command and decodes what it returns into result, unless that is nil. Events
// that arrive meanwhile are kept for WaitEvent.
func (q *QMP) Execute(ctx context.Context, command string, arguments, result any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("QMP command %s: %w", command, err)
	}
	if err := q.send(ctx, request); err != nil {
		return fmt.Errorf("QMP command %s: %w", command, err)
	}
	for {
		m, err := q.next(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("QMP command %s: %w", command, err)
		case m.Event.Name != "":
			q.keep(m.Event)
		case m.Error != nil:
			return fmt.Errorf("QMP command %s: %s: %s", command, m.Error.Class, m.Error.Desc)
		case m.Return != nil:
			if result == nil {
				return nil
			}
			if err := json.Unmarshal(m.Return, result); err != nil {
				return fmt.Errorf("QMP command %s: %w", command, err)
			}
			return nil
		}
	}
}

// maxEvents bounds the events that are kept for WaitEvent; the oldest are dropped.
const maxEvents = 64

func (q *QMP) keep(e Event) {
	q.events = append(q.events, e)
	if len(q.events) > maxEvents {
		q.events = q.events[1:]
	}
}

// WaitEvent returns the next event, which may have arrived earlier.
func (q *QMP) WaitEvent(ctx context.Context) (Event, error) {
	if len(q.events) > 0 {
		e := q.events[0]
		q.events = q.events[1:]
		return e, nil
	}
	for {
		m, err := q.next(ctx)
		if err != nil {
			return Event{}, fmt.Errorf("wait for a QMP event: %w", err)
		}
		if m.Event.Name != "" {
			return m.Event, nil
		}
	}
}

// Running implements Client.
func (q *QMP) Running(ctx context.Context) (bool, error) {
	var status struct {
		Status string `json:"status"`
	}
	err := q.Execute(ctx, "query-status", nil, &status)
	return status.Status == "running", err
}

// AwaitRunning implements Client. It asks once, and then waits for the event that the CPUs
// were started.
func (q *QMP) AwaitRunning(ctx context.Context) error {
	for {
		running, err := q.Running(ctx)
		if err != nil || running {
			return err
		}
		if err := q.awaitEvent(ctx, "RESUME"); err != nil {
			return err
		}
	}
}

// AwaitShutdown implements Client.
func (q *QMP) AwaitShutdown(ctx context.Context) error { return q.awaitEvent(ctx, "SHUTDOWN", "RESET") }

// awaitEvent waits for one of the named events.
func (q *QMP) awaitEvent(ctx context.Context, names ...string) error {
	for {
		e, err := q.WaitEvent(ctx)
		if err != nil || slices.Contains(names, e.Name) {
			return err
		}
	}
}

// CtrlAltDel implements Client.
func (q *QMP) CtrlAltDel(ctx context.Context) error {
	// QEMU presses the keys in this order and releases them in reverse.
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	keys := []key{{"qcode", "ctrl"}, {"qcode", "alt"}, {"qcode", "delete"}}
	return q.Execute(ctx, "send-key", map[string]any{"keys": keys}, nil)
}

// PowerButton implements Client.
func (q *QMP) PowerButton(ctx context.Context) error {
	return q.Execute(ctx, "system_powerdown", nil, nil)
}

// Memory implements Client. It leaves out what virtio-mem adds, which the balloon cannot take.
func (q *QMP) Memory(ctx context.Context) (int, error) {
	var summary struct {
		Base int64 `json:"base-memory"` // bytes
	}
	err := q.Execute(ctx, "query-memory-size-summary", nil, &summary)
	return int(summary.Base >> 20), err
}

// GuestMemory implements Client.
func (q *QMP) GuestMemory(ctx context.Context) (int, error) {
	var info struct {
		Actual int64 `json:"actual"` // bytes
	}
	err := q.Execute(ctx, "query-balloon", nil, &info)
	return int(info.Actual >> 20), err
}

// SetGuestMemory implements Client.
func (q *QMP) SetGuestMemory(ctx context.Context, guest, _ int) error {
	return q.Execute(ctx, "balloon", map[string]any{"value": int64(guest) << 20}, nil)
}
