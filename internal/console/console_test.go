package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/testutil"
)

// vm is the console of a VM: like QEMU's it serves one client at a time.
type vm struct {
	dir      string
	listener net.Listener
	mu       sync.Mutex
	client   net.Conn
	typed    bytes.Buffer
}

func newVM(t *testing.T) *vm {
	t.Helper()
	v := &vm{dir: t.TempDir()}
	var err error
	if v.listener, err = net.Listen("unix", filepath.Join(v.dir, "console.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.down)
	go func() {
		for {
			conn, err := v.listener.Accept()
			if err != nil {
				return
			}
			v.set(conn)
			buf := make([]byte, 64)
			for err == nil {
				var n int
				n, err = conn.Read(buf)
				v.mu.Lock()
				v.typed.Write(buf[:n])
				v.mu.Unlock()
			}
		}
	}()
	return v
}

func (v *vm) set(conn net.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.client = conn
}

func (v *vm) print(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, _ = io.WriteString(v.client, text)
}

func (v *vm) down() {
	_ = v.listener.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client != nil {
		_ = v.client.Close()
	}
}

func (v *vm) got() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.typed.String()
}

// person is one at the console.
type person struct {
	mu        sync.Mutex
	out, said strings.Builder
	keys      *io.PipeWriter
	ended     chan error
	kill      func()
}

func (p *person) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(data)
}

func (p *person) sees() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *person) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

func (v *vm) attach(t *testing.T, interactive bool) *person {
	t.Helper()
	p := &person{ended: make(chan error, 1)}
	var in *io.PipeReader
	in, p.keys = io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	p.kill = cancel
	s := &Session{
		Dir: v.dir, Socket: "console.sock", Meeting: filepath.Join(v.dir, "run", ".meeting"),
		In: in, Out: p, Interactive: interactive,
		Say: func(format string, args ...any) {
			p.mu.Lock()
			defer p.mu.Unlock()
			_, _ = fmt.Fprintf(&p.said, format+"\n", args...)
		},
	}
	go func() { p.ended <- s.Run(ctx) }()
	t.Cleanup(cancel)
	return p
}

func (p *person) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(p.keys, keys); err != nil {
		t.Fatal(err)
	}
}

func (p *person) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the session does not end")
		return nil
	}
}

func (v *vm) connected() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.client != nil
}

func TestOneTypesOthersReadAndOneTakesOver(t *testing.T) {
	v := newVM(t)
	first := v.attach(t, true)
	testutil.Until(t, "connected", v.connected)
	v.print("login: ")
	testutil.Until(t, "the first sees", func() bool { return first.sees() == "login: " })
	first.types(t, "root\r")
	testutil.Until(t, "the console has the keys", func() bool { return v.got() == "root\r" })

	second, third := v.attach(t, true), v.attach(t, true)
	testutil.Until(t, "those who come later see what was said before", func() bool { return second.sees() == "login: " && third.sees() == "login: " })
	second.types(t, "nothing")
	testutil.Until(t, "one who only reads is told", func() bool { return strings.Contains(second.told(), "this console is read-only") })
	v.print("welcome")
	testutil.Until(t, "all see", func() bool {
		return strings.HasSuffix(first.sees(), "welcome") && strings.HasSuffix(second.sees(), "welcome") && strings.HasSuffix(third.sees(), "welcome")
	})

	first.types(t, "ls\r\x1dnot this")
	if err := first.end(t); err != nil {
		t.Errorf("leaving with ctrl-] is %v", err)
	}
	// The quicker one of the two has the keyboard.
	testutil.Until(t, "one of the others types", func() bool {
		second.types(t, "2")
		third.types(t, "3")
		time.Sleep(time.Millisecond)
		return len(v.got()) > len("root\rls\r")
	})
	if got := v.got(); !strings.HasPrefix(got, "root\rls\r") || strings.Contains(got, "not") || strings.Contains(got, "2") && strings.Contains(got, "3") {
		t.Errorf("the console got %q", got)
	}
	v.down()
	for _, p := range []*person{second, third} {
		if err := p.end(t); !errors.Is(err, ErrClosed) {
			t.Errorf("when the VM goes down a session ends with %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(v.dir, "run", ".meeting*")); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestStreamIsTypedAsItIs(t *testing.T) {
	v := newVM(t)
	p := v.attach(t, false)
	testutil.Until(t, "connected", v.connected)
	p.types(t, "a\x1db\n")
	_ = p.keys.Close()
	testutil.Until(t, "typed", func() bool { return v.got() == "a\x1db\n" })
	v.print("and what it answers")
	testutil.Until(t, "still read", func() bool { return p.sees() == "and what it answers" })
	v.down()
	if err := p.end(t); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestSocketOfOneWhoWasKilledIsReplaced(t *testing.T) {
	v := newVM(t)
	run := filepath.Join(v.dir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(run, ".meeting")}); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	p := v.attach(t, true)
	testutil.Until(t, "connected", v.connected)
	p.kill()
	if err := p.end(t); err != nil {
		t.Error(err)
	}
}

// TestLockOfAnotherUserHoldsNobodyUp: everybody can open /run/microvm, and lock it.
func TestLockOfAnotherUserHoldsNobodyUp(t *testing.T) {
	v := newVM(t)
	run := filepath.Join(v.dir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(run, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	v.attach(t, true)
	testutil.Until(t, "connected", v.connected)
}

func TestReaderThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	v := newVM(t)
	first := v.attach(t, true)
	testutil.Until(t, "connected", v.connected)
	stuck, err := net.Dial("unix", filepath.Join(v.dir, "run", ".meeting"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stuck.Close() }()
	const lines = 4000
	for range lines {
		v.print(strings.Repeat("x", 1023) + "\n")
	}
	testutil.Until(t, "the first sees all", func() bool { return strings.Count(first.sees(), "\n") == lines })
}

func TestConsoleOfAVMThatIsDownFails(t *testing.T) {
	v := newVM(t)
	v.down()
	p := v.attach(t, true)
	if err := p.end(t); !gone(err) {
		t.Errorf("%v", err)
	}
}
