package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mux answers one client as a multiplexer does: with reply, followed by the guest's
// first data. Cloud Hypervisor 54.0 and Firecracker 1.17.0-dev reply with
// OK and a port of theirs, from 1<<30 on, and close where nobody listens in the guest.
func mux(t *testing.T, reply, guest string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "vm.vsock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line != "CONNECT 22\n" {
			_, _ = fmt.Fprintf(conn, "NO %q\n", line)
			return
		}
		_, _ = io.WriteString(conn, reply+guest)
	}()
	return dir
}

func TestMultiplexerGivesTheGuestsBytesAndNothingElse(t *testing.T) {
	dir := mux(t, "OK 1073741824\n", "SSH-2.0-OpenSSH\r\n")
	conn, err := Dial(t.Context(), Address{Socket: "vm.vsock", Dir: dir}, 22)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "SSH-2.0-OpenSSH\r\n" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestMultiplexerThatRefusesIsExplained(t *testing.T) {
	for reply, want := range map[string]string{
		"":                         "nothing listens there",
		"SORRY\n":                  `unexpected answer of the hypervisor's multiplexer: "SORRY"`,
		strings.Repeat("OK ", 100): `unexpected answer of the hypervisor's multiplexer: "OK OK OK`,
	} {
		dir := mux(t, reply, "")
		if _, err := Dial(t.Context(), Address{Socket: "vm.vsock", Dir: dir}, 22); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reply %q: %v, want %q", reply, err, want)
		}
	}
}

// TestAMultiplexerThatIsALinkIsNotAsked: safepath tests other links.
func TestAMultiplexerThatIsALinkIsNotAsked(t *testing.T) {
	elsewhere := mux(t, "OK 1073741825\n", "")
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(elsewhere, "vm.vsock"), filepath.Join(dir, "vm.vsock")); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), Address{Socket: "vm.vsock", Dir: dir}, 22); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v, want ELOOP", err)
	}
}

func TestEachFailureOfVsockSaysWhatToDo(t *testing.T) {
	for err, want := range map[error]string{
		unix.EAFNOSUPPORT: "modprobe vhost_vsock",
		unix.ENODEV:       "start the VM",
		unix.ECONNRESET:   "sshd",
		unix.ETIMEDOUT:    "booting",
		unix.EACCES:       "running",
	} {
		if got := vsockHint(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q does not say %q", err, got, want)
		}
	}
}
