package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// everyMethod asks each kind of hypervisor whether it runs, beneath dir.
func everyMethod(t *testing.T, dir, socket string) map[string]error {
	t.Helper()
	out := map[string]error{}
	for _, method := range []string{"qmp", "cloud-hypervisor", "firecracker", "crosvm", "kvmtool"} {
		ctx := within(t, time.Minute)
		c, err := Open(ctx, hypervisor.Control{Method: method, Socket: socket}, dir)
		if err == nil {
			_, err = c.Running(ctx)
			_ = c.Close()
		}
		out[method] = err
	}
	return out
}

// listenBoth accepts connections of both socket types that hypervisors use, and reports each
// to seen.
func listenBoth(t *testing.T, dir string, seen chan<- string) {
	t.Helper()
	for _, network := range []string{"unix", "unixpacket"} {
		l, err := net.Listen(network, filepath.Join(dir, network))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				seen <- network
				_ = conn.Close()
			}
		}()
	}
}

// TestNoLinkLeadsToANeighboursHypervisor: the VM's user can put a link where
// its control socket was.
func TestNoLinkLeadsToANeighboursHypervisor(t *testing.T) {
	neighbour, ours := t.TempDir(), t.TempDir()
	seen := make(chan string, 100)
	listenBoth(t, neighbour, seen)
	if err := os.Symlink(neighbour, filepath.Join(ours, "dir")); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"unix", "unixpacket"} {
		if err := os.Symlink(filepath.Join(neighbour, network), filepath.Join(ours, network)); err != nil {
			t.Fatal(err)
		}
		for _, socket := range []string{network, "dir/" + network} {
			for method, err := range everyMethod(t, ours, socket) {
				if !errors.Is(err, unix.ELOOP) {
					t.Errorf("%s by %s: %v, want ELOOP", method, socket, err)
				}
			}
		}
	}
	select {
	case network := <-seen:
		t.Errorf("the neighbour was reached through its %s socket", network)
	default:
	}
}

// TestASocketIsReachedFromWhereverItIs: in the current directory, as in a run in the
// foreground, and below a path that is too long for a socket's address.
func TestASocketIsReachedFromWhereverItIs(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(long)
	for at, dir := range map[string]string{"the current directory": ".", "a long path": long} {
		l, err := net.Listen("unix", "qmp")
		if err != nil {
			t.Fatal(err)
		}
		greeted := make(chan struct{})
		go func() {
			defer close(greeted)
			if conn, err := l.Accept(); err == nil {
				_, _ = conn.Write([]byte("SSH-2.0\n"))
				_ = conn.Close()
			}
		}()
		if _, err := DialQMP(within(t, time.Minute), dir, "qmp"); err == nil || !strings.Contains(err.Error(), "invalid message") {
			t.Errorf("%s: %v, want the other side's answer", at, err)
		}
		_ = l.Close()
		<-greeted
	}
}
