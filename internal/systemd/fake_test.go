package systemd

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// method answers a call: with the values to return, or with a dbus.Error alone.
type method func(args []any) []any

// fake is a service manager with its private socket, and a system bus on another. On the
// private socket it treats the bytes that follow the authentication as sd-bus does, see
// private.
type fake struct {
	t       *testing.T
	methods map[string]method // by INTERFACE.MEMBER

	mu    sync.Mutex
	conns []net.Conn
	calls []string
}

// newFake starts a fake and makes this package connect to it, as root and otherwise.
func newFake(t *testing.T, methods map[string]method) *fake {
	t.Helper()
	f := &fake{t: t, methods: map[string]method{
		"org.freedesktop.DBus.Hello":    func([]any) []any { return []any{":1.7"} },
		"org.freedesktop.DBus.AddMatch": func([]any) []any { return nil },
		managerInterface + ".Subscribe": func([]any) []any { return nil },
	}}
	maps.Copy(f.methods, methods)
	dir, old := t.TempDir(), privateSocket
	privateSocket = filepath.Join(dir, "private")
	t.Cleanup(func() { privateSocket = old })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "bus"))
	f.listen(privateSocket, true)
	f.listen(filepath.Join(dir, "bus"), false)
	return f
}

// listen serves clients on a socket.
func (f *fake) listen(path string, sdBus bool) {
	f.t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = listener.Close(); f.hangUp() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(conn, sdBus)
		}
	}()
}

// called reports whether a method was called.
func (f *fake) called(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == name {
			return true
		}
	}
	return false
}

// hangUp closes all connections.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

func (f *fake) serve(conn net.Conn, sdBus bool) {
	defer func() { _ = conn.Close() }()
	in, err := handshake(conn, sdBus)
	if err != nil {
		return
	}
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
	for {
		msg, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		f.answer(conn, msg)
	}
}

// handshake is the server's side of the authentication. It returns a reader of the
// messages. With sdBus it returns after bytes arrived that were not read with BEGIN.
func handshake(conn net.Conn, sdBus bool) (io.Reader, error) {
	var text []byte
	for chunk := make([]byte, 256); ; {
		n, err := conn.Read(chunk)
		if err != nil {
			return nil, err
		}
		text = append(text, bytes.TrimPrefix(chunk[:n], []byte{0})...)
		for {
			line, rest, found := bytes.Cut(text, []byte("\r\n"))
			if !found {
				break
			}
			text = rest
			reply := "DATA\r\n"
			switch {
			case string(line) == "BEGIN" && !sdBus:
				return io.MultiReader(bytes.NewReader(text), conn), nil
			case string(line) == "BEGIN":
				n, err := conn.Read(chunk)
				return io.MultiReader(bytes.NewReader(text), bytes.NewReader(bytes.Clone(chunk[:n])), conn), err
			case string(line) == "AUTH":
				reply = "REJECTED EXTERNAL\r\n"
			case strings.HasPrefix(string(line), "DATA"):
				reply = "OK 0123456789abcdef0123456789abcdef\r\n"
			case string(line) == "NEGOTIATE_UNIX_FD":
				reply = "AGREE_UNIX_FD\r\n"
			}
			if _, err := conn.Write([]byte(reply)); err != nil {
				return nil, err
			}
			if reply == "AGREE_UNIX_FD\r\n" {
				time.Sleep(50 * time.Millisecond) // BEGIN and the first call arrive together
			}
		}
	}
}

// answer answers a call, which fails if no method has its name.
func (f *fake) answer(conn net.Conn, call *dbus.Message) {
	iface, _ := call.Headers[dbus.FieldInterface].Value().(string)
	member, _ := call.Headers[dbus.FieldMember].Value().(string)
	name := iface + "." + member
	f.mu.Lock()
	f.calls = append(f.calls, name)
	f.mu.Unlock()
	if call.Flags&dbus.FlagNoReplyExpected != 0 {
		return
	}
	values := []any{dbus.Error{Name: unknownMethod, Body: []any{name}}}
	if m := f.methods[name]; m != nil {
		values = m(call.Body)
	}
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
	}}
	if len(values) == 1 {
		if err, ok := values[0].(dbus.Error); ok {
			reply.Type, values = dbus.TypeError, err.Body
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(err.Name)
		}
	}
	f.send(conn, reply, values)
}

// signal sends a signal of the manager to all connections.
func (f *fake) signal(member string, values ...any) {
	f.mu.Lock()
	conns := append([]net.Conn{}, f.conns...)
	f.mu.Unlock()
	for _, conn := range conns {
		f.send(conn, &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(managerPath)),
			dbus.FieldInterface: dbus.MakeVariant(managerInterface),
			dbus.FieldMember:    dbus.MakeVariant(member),
		}}, values)
	}
}

func (f *fake) send(conn net.Conn, msg *dbus.Message, values []any) {
	if len(values) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(values...))
		msg.Body = values
	}
	var out bytes.Buffer
	if err := msg.EncodeTo(&out, binary.LittleEndian); err != nil {
		f.t.Errorf("encode %v: %v", msg, err)
		return
	}
	_, _ = conn.Write(out.Bytes()) // one call, so that no other message comes in between
}
