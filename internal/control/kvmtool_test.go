package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/test/testutil"
)

// lkvm answers on a control socket as kvmtool of commit b48735e (August 2024) did on
// 2026-11-26, one connection after the other, with a guest behind it that follows
// its balloon at once.
type lkvm struct {
	mu sync.Mutex
	// mem is the VM's, keeps what its guest's kernel does not count, and balloon what
	// the balloon is to hold, in MiB.
	mem, keeps, balloon int
	state               uint32
	asked               []int32
}

func (l *lkvm) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.balloon
}

func (l *lkvm) serve(conn net.Conn) {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		content := make([]byte, binary.NativeEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(conn, content); err != nil {
			return
		}
		_, _ = conn.Write(l.answer(binary.NativeEndian.Uint32(head), content))
	}
}

func (l *lkvm) answer(kind uint32, content []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch kind {
	case kvmtoolState:
		return binary.NativeEndian.AppendUint32(nil, l.state)
	case kvmtoolBalloon:
		by := int32(binary.NativeEndian.Uint32(content))
		l.asked = append(l.asked, by)
		// handle_mem, virtio/balloon.c: too much is passed over.
		if by > 0 || l.balloon >= int(-by) {
			l.balloon += int(by)
		}
		return nil
	case kvmtoolStat:
		var out []byte
		for tag := range uint16(10) {
			out = binary.LittleEndian.AppendUint16(out, tag)
			value := uint64(12345)
			if tag == kvmtoolStatTotal {
				value = uint64(l.mem-l.keeps-l.balloon) << 20
			}
			out = binary.LittleEndian.AppendUint64(out, value)
		}
		return out
	}
	return nil
}

// listenAs serves connections to a socket with script, one after the other.
func listenAs(t *testing.T, script func(net.Conn)) Client {
	t.Helper()
	return listenFor(t, hypervisor.Control{}, script)
}

// listenFor is listenAs with what the package says of the balloon.
func listenFor(t *testing.T, c hypervisor.Control, script func(net.Conn)) Client {
	t.Helper()
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "web.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			script(conn)
			_ = conn.Close()
		}
	}()
	c.Method, c.Socket = "kvmtool", "web.sock"
	client := mustOpen(t, c, dir)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// TestKvmtoolsBalloonIsEmptiedWhateverItHolds: it passes over a wish for more than
// the balloon holds.
func TestKvmtoolsBalloonIsEmptiedWhateverItHolds(t *testing.T) {
	for _, held := range []int{0, 1, 37, 96, 128, 255, 256} {
		for _, guest := range []int{16, 128, 200, 255, 256} {
			t.Run(fmt.Sprintf("%d, %d", held, guest), func(t *testing.T) {
				t.Parallel()
				l := &lkvm{mem: 256, balloon: held}
				client := listenFor(t, hypervisor.Control{Memory: 256}, l.serve)
				if got, err := Balloon(within(t, time.Minute), client, guest); !errors.Is(err, ErrUntold) || got != guest {
					t.Errorf("the guest is to have %d MiB, %v", got, err)
				}
				testutil.Until(t, "the balloon", func() bool { return l.held() == 256-guest })
			})
		}
	}
}

// TestKvmtoolRunsWhenItsCPUsDo uses this process as the one that listens.
func TestKvmtoolRunsWhenItsCPUsDo(t *testing.T) {
	l := &lkvm{}
	client := listenAs(t, l.serve)
	check := func(want bool, when string) {
		t.Helper()
		if running, err := client.Running(within(t, time.Minute)); err != nil || running != want {
			t.Errorf("%s: running %t, %v, want %t", when, running, err, want)
		}
	}
	check(false, "before there is a CPU")
	haveThread(t, "kvm-vcpu-0")
	check(true, "with a CPU")
	l.mu.Lock()
	l.state = kvmtoolRunning + 1
	l.mu.Unlock()
	check(false, "paused")
}

// haveThread gives this process a thread of that name until the test ends.
func haveThread(t *testing.T, name string) {
	t.Helper()
	end := make(chan struct{})
	named := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the name goes with it
		text := append([]byte(name), 0)
		named <- unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&text[0])), 0, 0, 0)
		<-end
	}()
	t.Cleanup(func() { close(end) })
	if err := <-named; err != nil {
		t.Fatal(err)
	}
}

// TestCrosvmRunsWhenItsCPUsDo: its socket listens before there is a VM.
func TestCrosvmRunsWhenItsCPUsDo(t *testing.T) {
	dir := t.TempDir()
	client := mustOpen(t, hypervisor.Control{Method: "crosvm", Socket: "web.sock"}, dir)
	if running, err := client.Running(within(t, time.Minute)); err == nil || running {
		t.Errorf("without a socket: running %t, %v", running, err)
	}
	listener, err := net.Listen("unixpacket", filepath.Join(dir, "web.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if running, err := client.Running(within(t, time.Minute)); err != nil || running {
		t.Errorf("before there is a CPU: running %t, %v", running, err)
	}
	haveThread(t, "crosvm_vcpu0")
	if running, err := client.Running(within(t, time.Minute)); err != nil || !running {
		t.Errorf("with a CPU: running %t, %v", running, err)
	}
}

func TestKvmtoolsSocketMayMisbehave(t *testing.T) {
	drain := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	read := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 64)) }
	for name, c := range map[string]struct {
		script func(net.Conn)
		want   string
	}{
		"late":   {drain, "deadline exceeded"},
		"closed": {func(net.Conn) {}, ""},
		"half an answer": {func(conn net.Conn) {
			read(conn)
			_, _ = conn.Write([]byte{kvmtoolStatTotal, 0, 1})
		}, "EOF"},
		"half an answer, held": {func(conn net.Conn) {
			read(conn)
			_, _ = conn.Write([]byte{kvmtoolStatTotal, 0, 1})
			drain(conn)
		}, "deadline exceeded"},
		"garbage": {func(conn net.Conn) {
			read(conn)
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.9 and some more of that\r\n"))
			drain(conn)
		}, "deadline exceeded"},
		"huge": {func(conn net.Conn) {
			read(conn)
			_, _ = conn.Write(make([]byte, 1<<20))
		}, "is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := listenAs(t, c.script)
			began := time.Now()
			_, err := Balloon(within(t, 3*time.Second), client, 0)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "web.sock") {
				t.Errorf("got %v, want … %s …", err, c.want)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestKvmtoolHasNoWayToAskItsGuest(t *testing.T) {
	client := listenAs(t, new(lkvm).serve)
	if err := client.PowerButton(t.Context()); err == nil {
		t.Error("it has a power button")
	}
	if err := client.CtrlAltDel(t.Context()); err == nil {
		t.Error("it has keys")
	}
	if _, err := 0, client.SetGuestMemory(within(t, time.Minute), 16, 1<<40); err == nil || !strings.Contains(err.Error(), "is the most") {
		t.Errorf("a balloon beyond all bounds: %v", err)
	}
}
