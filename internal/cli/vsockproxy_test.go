package cli

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProxyPassesTheConnectionOn(t *testing.T) {
	near, far := unixPair(t)
	conn, guest := unixPair(t)
	if err := passOn(near, conn); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(far.Fd()), make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	passed := os.NewFile(uintptr(fds[0]), "passed")
	defer func() { _ = passed.Close() }()
	if _, err := passed.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "hello" {
		t.Errorf("the guest got %q, %v", got, err)
	}
	if err := passOn(os.Stderr, conn); err == nil || !strings.Contains(err.Error(), "requires a socket") {
		t.Errorf("to a file that is not a socket: %v", err)
	}
}

func TestProxyCopiesBothWaysAndEndsWithTheGuest(t *testing.T) {
	conn, guest := unixPair(t)
	go func() {
		data, _ := io.ReadAll(guest) // until the end of what we say
		_, _ = guest.WriteString("got " + string(data))
		_ = guest.Close()
	}()
	var out strings.Builder
	if err := join(conn, strings.NewReader("words"), &out); err != nil || out.String() != "got words" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func unixPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}
