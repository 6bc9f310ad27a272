package notify

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manager is a stand-in for the service manager's socket.
func manager(t *testing.T) (string, *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return path, conn
}

func read(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestSendIsOneMessageWithALineForEach(t *testing.T) {
	path, conn := manager(t)
	if err := Send(path, "READY=1", "STATUS=up"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn); got != "READY=1\nSTATUS=up" {
		t.Errorf("got %q", got)
	}
}

func TestSendWithoutAManagerDoesNothing(t *testing.T) {
	if err := Send("", "READY=1"); err != nil {
		t.Error(err)
	}
	if err := Barrier("", time.Second); err != nil {
		t.Error(err)
	}
}

func TestSendReportsAManagerThatIsGone(t *testing.T) {
	path, conn := manager(t)
	_ = conn.Close()
	if err := Send(path, "READY=1"); err == nil {
		t.Error("sent to nobody")
	}
	if err := Barrier(path, time.Second); err == nil {
		t.Error("waited for nobody")
	}
}

func TestBarrierEndsWhenTheManagerHasTakenIt(t *testing.T) {
	path, conn := manager(t)
	done := make(chan error, 1)
	go func() { done <- Barrier(path, time.Minute) }()
	select {
	case err := <-done:
		t.Fatalf("ended before anybody read it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	// The kernel closes the descriptor if the reader does not receive it.
	if got := read(t, conn); got != "BARRIER=1" {
		t.Errorf("got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBarrierDoesNotWaitForever(t *testing.T) {
	path, _ := manager(t)
	err := Barrier(path, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), os.ErrDeadlineExceeded.Error()) {
		t.Errorf("got %v, want the deadline", err)
	}
}
