package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// maxLine bounds one message. QEMU's longest, the greeting and lists of
// devices, have some kilobytes.
const maxLine = 1 << 20

// QMP is a connection to QEMU's machine protocol (QEMU's qmp-spec). QEMU
// serves one connection at a time: open late, close early.
type QMP struct {
	conn   net.Conn
	lines  *bufio.Scanner
	events []Event
}

// Event is something that QEMU reports by itself.
type Event struct {
	Name string `json:"event"`
	Data struct {
		Reason string `json:"reason"`
		Guest  bool   `json:"guest"`
	} `json:"data"`
}

// message is everything that QEMU may send.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

// DialQMP connects to the socket and leaves the negotiation behind. The
// context bounds only this call.
func DialQMP(ctx context.Context, path string) (*QMP, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP socket %s: %w", path, err)
	}
	q := &QMP{conn: conn, lines: bufio.NewScanner(conn)}
	q.lines.Buffer(make([]byte, 0, 4096), maxLine)
	if err := q.negotiate(ctx); err != nil {
		return nil, fmt.Errorf("QMP socket %s: %w", path, errors.Join(err, conn.Close()))
	}
	return q, nil
}

func (q *QMP) negotiate(ctx context.Context) error {
	m, err := q.next(ctx)
	if err != nil {
		return fmt.Errorf("wait for the greeting: %w", err)
	}
	if m.Greeting == nil {
		return errors.New("the greeting is not QEMU's; is another program behind this socket?")
	}
	return q.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Close ends the connection.
func (q *QMP) Close() error { return q.conn.Close() }

// next reads one message, until the context ends.
func (q *QMP) next(ctx context.Context) (*message, error) {
	// The deadline in the past wakes the read when the context ends first.
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if !q.lines.Scan() {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := q.lines.Err(); err != nil {
			return nil, err
		}
		return nil, errors.New("the hypervisor closed the connection")
	}
	m := new(message)
	if err := json.Unmarshal(q.lines.Bytes(), m); err != nil {
		return nil, fmt.Errorf("not understood: %w", err)
	}
	return m, nil
}

// Execute sends a command and decodes what it returns into result, unless that
// is nil. Events that arrive meanwhile are kept for WaitEvent.
func (q *QMP) Execute(ctx context.Context, command string, arguments, result any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("QMP command %s: %w", command, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := q.conn.SetWriteDeadline(deadline); err != nil {
			return fmt.Errorf("QMP command %s: %w", command, err)
		}
	}
	if _, err := q.conn.Write(append(request, '\n')); err != nil {
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

// maxEvents bounds what is kept for WaitEvent; the oldest go first.
const maxEvents = 64

func (q *QMP) keep(e Event) {
	q.events = append(q.events, e)
	if len(q.events) > maxEvents {
		q.events = q.events[1:]
	}
}

// WaitEvent returns the next event, be it one that has arrived already.
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

// CtrlAltDel implements Client.
func (q *QMP) CtrlAltDel(ctx context.Context) error {
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

// Balloon implements Client: it sets the guest's memory and returns what the
// guest has after settling, or when the context ends.
func (q *QMP) Balloon(ctx context.Context, guestMiB int) (int, error) {
	if guestMiB > 0 {
		if err := q.Execute(ctx, "balloon", map[string]any{"value": guestMiB << 20}, nil); err != nil {
			return 0, err
		}
	}
	for {
		var info struct {
			Actual int64 `json:"actual"`
		}
		if err := q.Execute(ctx, "query-balloon", nil, &info); err != nil {
			return 0, err
		}
		have := int(info.Actual >> 20)
		if guestMiB <= 0 || have == guestMiB {
			return have, nil
		}
		// QEMU reports each change of the balloon.
		settle, cancel := context.WithTimeout(ctx, time.Second)
		_, err := q.WaitEvent(settle)
		cancel()
		if err != nil {
			return have, nil //nolint:nilerr // it has stopped moving; what was reached is the answer
		}
	}
}
