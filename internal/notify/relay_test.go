package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/mdlayher/vsock"
)

// relay is a running Relay behind a Unix socket, as with the hypervisors that have a
// vsock multiplexer.
type relay struct {
	t    *testing.T
	path string
	done chan error
	mu   sync.Mutex
	got  []string
}

func start(t *testing.T, ctx context.Context) *relay {
	t.Helper()
	r := &relay{t: t, path: filepath.Join(t.TempDir(), "v_1"), done: make(chan error, 1)}
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	relay := &Relay{Listener: l, Forward: func(m []string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, m...)
		return nil
	}}
	go func() { r.done <- relay.Run(ctx) }()
	return r
}

// notify reports as systemd does: it connects, writes, shuts down and waits
// for the end. It returns how long that took.
func (r *relay) notify(text string) time.Duration {
	r.t.Helper()
	began := time.Now()
	if err := r.report(text); err != nil {
		r.t.Errorf("notify %q: %v", text, err)
	}
	return time.Since(began)
}

func (r *relay) report(text string) error {
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if n != 0 {
		err = errors.Join(err, fmt.Errorf("got %d bytes, want just the end", n))
	}
	return err
}

// wait returns what was forwarded when the relay has ended.
func (r *relay) wait() ([]string, error) {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.got, err
	case <-time.After(time.Minute):
		r.t.Fatal("the relay does not end")
		return nil, nil
	}
}

func TestRelayEndsAfterReady(t *testing.T) {
	r := start(t, context.Background())
	r.notify("STATUS=Starting\n")
	r.notify("X_SYSTEMD_UNIT_ACTIVE=basic.target\n")
	r.notify("READY=1\nSTATUS=Startup finished\n")
	got, err := r.wait()
	want := []string{"STATUS=Starting", "READY=1", "STATUS=Startup finished"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestReadyIsNotHeldUpByTheLinger(t *testing.T) {
	r := start(t, context.Background())
	r.notify("READY=1")
	for said := false; !said; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		said = slices.Contains(r.got, "READY=1")
		r.mu.Unlock()
		if len(r.done) > 0 && !said {
			t.Fatal("the relay ended before it had passed READY=1 on")
		}
	}
	if len(r.done) > 0 {
		t.Error("the relay did not stay for what the guest says next")
	}
	if _, err := r.wait(); err != nil {
		t.Error(err)
	}
}

// A guest's PID 1 blocks until its notification is received.
func TestSlowConnectionHoldsUpNoOther(t *testing.T) {
	r := start(t, context.Background())
	for range maxParallel / 2 {
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte("STATUS=never ends")); err != nil {
			t.Fatal(err)
		}
	}
	if took := r.notify("STATUS=quick"); took > readTimeout {
		t.Errorf("a notification took %s beside connections that stay open", took)
	}
	r.notify("READY=1")
	if _, err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestNotificationsCostTheGuestLittle(t *testing.T) {
	r := start(t, context.Background())
	took := make([]time.Duration, 100)
	for i := range took {
		took[i] = r.notify(fmt.Sprintf("STATUS=Starting unit %d", i))
	}
	r.notify("READY=1")
	if _, err := r.wait(); err != nil {
		t.Error(err)
	}
	if !slices.IsSortedFunc(r.got, func(a, b string) int { return unit(t, a) - unit(t, b) }) {
		t.Errorf("the order is lost: %q", r.got)
	}
	slices.Sort(took)
	t.Logf("one notification: median %s, longest %s", took[50], took[99])
	if took[50] > time.Millisecond {
		t.Errorf("the median of 100 notifications is %s, more than a millisecond", took[50])
	}
}

// unit is the number in a status of TestNotificationsCostTheGuestLittle.
func unit(t *testing.T, assignment string) int {
	t.Helper()
	n := 1000 // READY=1 comes last
	if text, ok := strings.CutPrefix(assignment, "STATUS=Starting unit "); ok {
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Error(err)
		}
	}
	return n
}

func TestReadyIsNeverLost(t *testing.T) {
	const runs, atOnce = 200, 50
	for range runs / atOnce {
		var relays []*relay
		var guests sync.WaitGroup
		for range atOnce {
			r := start(t, context.Background())
			relays = append(relays, r)
			for _, text := range []string{"STATUS=a", "READY=1", "STATUS=b", "READY=1\nSTATUS=c"} {
				guests.Add(1)
				go func() {
					defer guests.Done()
					// Too long after READY=1, the listener may be closed.
					_ = r.report(text)
				}()
			}
		}
		guests.Wait()
		for _, r := range relays {
			if got, err := r.wait(); err != nil || !slices.Contains(got, "READY=1") {
				t.Fatalf("got %q, %v", got, err)
			}
		}
	}
}

func TestReadyGetsThroughAFlood(t *testing.T) {
	r := start(t, context.Background())
	for range 2 * maxRate {
		r.notify("STATUS=noise")
	}
	r.notify("READY=1")
	got, err := r.wait()
	if err != nil || !slices.Contains(got, "READY=1") {
		t.Errorf("%v, ready %v", err, slices.Contains(got, "READY=1"))
	}
}

func TestHugeMessageIsCutAndItsConnectionClosed(t *testing.T) {
	r := start(t, context.Background())
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// The relay closes the connection of a guest that sends too much.
	_, _ = conn.Write([]byte("STATUS=" + strings.Repeat("x", 1<<20)))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection gave data")
	}
	r.notify("READY=1")
	got, err := r.wait()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || len(got[0]) != len("STATUS=")+maxStatus {
		t.Errorf("got %.40q…, want a status of %d bytes first", got, maxStatus)
	}
}

func TestRelayEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r := start(t, ctx)
	r.notify("STATUS=booting")
	cancel()
	if _, err := r.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("unix", r.path); err == nil {
		t.Error("somebody still listens")
	}
}

func TestFailureToForwardEndsTheRelay(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "v"))
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("no manager")
	r := &relay{t: t, path: l.Addr().String(), done: make(chan error, 1)}
	go func() {
		r.done <- (&Relay{Listener: l, Forward: func([]string) error { return cause }}).Run(context.Background())
	}()
	r.notify("READY=1")
	if _, err := r.wait(); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

// from is a connection from a vsock address.
type from struct {
	net.Conn
	cid uint32
}

func (f from) RemoteAddr() net.Addr { return &vsock.Addr{ContextID: f.cid, Port: 1023} }

func TestOnlyTheVMItselfIsListenedTo(t *testing.T) {
	r := &Relay{CID: 42}
	for cid, want := range map[uint32]bool{42: true, 43: false, vsock.Host: false, vsock.Local: false} {
		if got := r.fromGuest(from{cid: cid}); got != want {
			t.Errorf("CID %d is listened to: %v, want %v", cid, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	cases := map[string]struct {
		text string
		want []string
	}{
		"what systemd sends":         {"READY=1\nSTATUS=Startup finished in 1s.\n", []string{"READY=1", "STATUS=Startup finished in 1s."}},
		"no newline at the end":      {"READY=1", []string{"READY=1"}},
		"stopping and an exit code":  {"STOPPING=1\nEXIT_STATUS=3\nERRNO=5", []string{"STOPPING=1", "EXIT_STATUS=3", "ERRNO=5"}},
		"what no guest may set":      {"MAINPID=1\nFDSTORE=1\nWATCHDOG=1\nBARRIER=1\nEXTEND_TIMEOUT_USEC=1\nNOTIFYACCESS=all", nil},
		"no assignment":              {"GET / HTTP/1.1\r\nReady: yes", nil},
		"other values":               {"READY=0\nREADY=11\nSTOPPING=yes\nEXIT_STATUS=-1\nEXIT_STATUS=1000\nEXIT_STATUS=", nil},
		"a status with escapes":      {"STATUS=a\x1b[31mb\x00c\u202e", []string{"STATUS=abc"}},
		"a status that is no UTF-8":  {"STATUS=\xff\xfeok", []string{"STATUS=ok"}},
		"an equals sign in a status": {"STATUS=a=b", []string{"STATUS=a=b"}},
		"nothing":                    {"", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Parse([]byte(c.text)); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=x\n"))
	f.Add([]byte("STATUS=\xff\x1b[2J\u202eabc\nEXIT_STATUS=9"))
	f.Add(bytes.Repeat([]byte("STATUS=\U0001F600"), 300))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, a := range Parse(data) {
			name, value, found := strings.Cut(a, "=")
			if !found || !slices.Contains([]string{"READY", "STATUS", "STOPPING", "EXIT_STATUS", "ERRNO"}, name) {
				t.Errorf("%q is passed on", a)
			}
			if len(value) > maxStatus || strings.IndexFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
				t.Errorf("%q is not fit for a terminal", a)
			}
		}
	})
}
