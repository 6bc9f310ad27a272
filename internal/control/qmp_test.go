package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"microvm/internal/hypervisor"
	"microvm/test/need"
)

// greeting is QEMU's; 7.2.22 and 10.0.13 have their package in it, too.
const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}}, "capabilities": ["oob"]}}` + "\n"

// serve accepts one connection on a socket and passes it to script, with a scanner for the
// client's requests, one per line.
func serve(t *testing.T, script func(conn net.Conn, requests *bufio.Scanner)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		script(conn, bufio.NewScanner(conn))
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return path
}

// say sends the pieces, each by its own write.
func say(conn net.Conn, pieces ...string) {
	for _, p := range pieces {
		_, _ = conn.Write([]byte(p))
	}
}

// polite greets and acknowledges the negotiation.
func polite(conn net.Conn, requests *bufio.Scanner) {
	say(conn, greeting)
	requests.Scan()
	say(conn, `{"return": {}}`+"\n")
}

// hold keeps the connection open until the client closes it.
func hold(requests *bufio.Scanner) {
	for requests.Scan() {
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestDialRefusesMisbehavingServers(t *testing.T) {
	cases := map[string]struct {
		script func(net.Conn, *bufio.Scanner)
		want   string
	}{
		"one that never greets":          {func(_ net.Conn, r *bufio.Scanner) { hold(r) }, "deadline exceeded"},
		"one that closes at once":        {func(net.Conn, *bufio.Scanner) {}, "closed the connection"},
		"one that sends half a line":     {func(c net.Conn, _ *bufio.Scanner) { say(c, `{"QMP": {`) }, "closed the connection"},
		"one that stops within a line":   {func(c net.Conn, r *bufio.Scanner) { say(c, `{"QMP": {`); hold(r) }, "deadline exceeded"},
		"one that sends garbage":         {func(c net.Conn, r *bufio.Scanner) { say(c, "SSH-2.0-OpenSSH\r\n"); hold(r) }, "invalid message"},
		"one that speaks something else": {func(c net.Conn, r *bufio.Scanner) { say(c, "{}\n"); hold(r) }, "not QEMU's"},
		"one that never ends a line": {func(c net.Conn, _ *bufio.Scanner) {
			for range 3 {
				say(c, strings.Repeat("x", maxLine/2))
			}
		}, "longer than"},
		"one that greets and then falls silent": {func(c net.Conn, r *bufio.Scanner) { say(c, greeting); hold(r) }, "qmp_capabilities: context deadline exceeded"},
		"one that refuses the negotiation": {func(c net.Conn, r *bufio.Scanner) {
			say(c, greeting)
			r.Scan()
			say(c, `{"error": {"class": "GenericError", "desc": "no"}}`+"\n")
			hold(r)
		}, "GenericError: no"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := dialPath(within(t, 3*time.Second), serve(t, c.script))
			if err == nil {
				t.Fatal("connected", q.Close())
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want … %s …", err, c.want)
			}
		})
	}
}

func TestDialNamesASocketThatIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	_, err := dialPath(within(t, time.Minute), path)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
}

func TestOpenRefusesAMethodItDoesNotKnow(t *testing.T) {
	_, err := Open(within(t, time.Minute), hypervisor.Control{Method: "telepathy", Socket: "x"}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), `"telepathy"`) {
		t.Errorf("got %v", err)
	}
}

func TestAnswerThatComesInPiecesAndBetweenEvents(t *testing.T) {
	path := serve(t, func(c net.Conn, r *bufio.Scanner) {
		polite(c, r)
		r.Scan()
		say(c, `{"event": "NIC_RX_FILTER_`, "CHANGED\"}\n{\"event\": \"RESUME\"}\n{\"ret")
		time.Sleep(20 * time.Millisecond)
		say(c, `urn": {"status": "running"}}`, "\n")
		hold(r)
	})
	ctx := within(t, time.Minute)
	q, err := dialPath(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	if running, err := q.Running(ctx); err != nil || !running {
		t.Fatalf("running %v, %v", running, err)
	}
	for _, want := range []string{"NIC_RX_FILTER_CHANGED", "RESUME"} {
		if e, err := q.WaitEvent(ctx); err != nil || e.Name != want {
			t.Errorf("event %q, %v, want %q", e.Name, err, want)
		}
	}
}

func TestLateAnswerDoesNotSpoilTheConnection(t *testing.T) {
	path := serve(t, func(c net.Conn, r *bufio.Scanner) {
		polite(c, r)
		say(c, `{"event": "SHUT`)
		r.Scan() // only after the client's patience has ended once
		say(c, "DOWN\"}\n"+`{"return": {"status": "paused"}}`+"\n")
		hold(r)
	})
	ctx := within(t, time.Minute)
	q, err := dialPath(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	if _, err := q.WaitEvent(within(t, 30*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("half an event: %v, want the deadline", err)
	}
	if running, err := q.Running(ctx); err != nil || running {
		t.Fatalf("running %v, %v", running, err)
	}
	if e, err := q.WaitEvent(ctx); err != nil || e.Name != "SHUTDOWN" {
		t.Errorf("event %q, %v: half of it came before the deadline and half after", e.Name, err)
	}
}

func TestFloodOfEventsIsBounded(t *testing.T) {
	path := serve(t, func(c net.Conn, r *bufio.Scanner) {
		polite(c, r)
		r.Scan()
		for i := range 10 * maxEvents {
			say(c, fmt.Sprintf("{\"event\": \"E%d\"}\n", i))
		}
		say(c, `{"return": {"status": "running"}}`+"\n")
		hold(r)
	})
	ctx := within(t, time.Minute)
	q, err := dialPath(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	if _, err := q.Running(ctx); err != nil {
		t.Fatal(err)
	}
	if len(q.events) != maxEvents {
		t.Errorf("%d events are kept, want the last %d", len(q.events), maxEvents)
	}
}

func TestEndlessEventsEndWithTheContext(t *testing.T) {
	path := serve(t, func(c net.Conn, r *bufio.Scanner) {
		polite(c, r)
		for {
			if _, err := c.Write([]byte("{\"event\": \"E\"}\n")); err != nil {
				return
			}
		}
	})
	q, err := dialPath(within(t, time.Minute), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	began := time.Now()
	if _, err := q.Running(within(t, 100*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s to give up", took)
	}
}

// qemu starts a real one whose CPUs are stopped, and returns its QMP socket.
func qemu(t *testing.T, args ...string) string {
	t.Helper()
	program := need.Program(t, "qemu-system-x86_64")
	path := filepath.Join(t.TempDir(), "qmp")
	args = append([]string{"-S", "-display", "none", "-nodefaults", "-qmp", "unix:" + path + ",server=on,wait=off"}, args...)
	cmd := exec.Command(program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(stderr.String())
		}
	})
	return path
}

func dialPath(ctx context.Context, path string) (*QMP, error) {
	return DialQMP(ctx, filepath.Dir(path), filepath.Base(path))
}

// dial connects to a QEMU that is still starting.
func dial(t *testing.T, path string) *QMP {
	t.Helper()
	for ctx := within(t, time.Minute); ; time.Sleep(5 * time.Millisecond) {
		q, err := dialPath(ctx, path)
		if err == nil {
			t.Cleanup(func() { _ = q.Close() })
			return q
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestRealQEMUStartsToRun(t *testing.T) {
	q := dial(t, qemu(t, "-M", "none"))
	ctx := within(t, time.Minute)
	if running, err := q.Running(ctx); err != nil || running {
		t.Fatalf("running %v, %v, before it was told to", running, err)
	}
	if err := q.AwaitRunning(within(t, 50*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("awaiting a stopped VM: %v", err)
	}
	if err := q.Execute(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.AwaitRunning(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRealQEMUTakesShutdownRequests(t *testing.T) {
	ctx := within(t, time.Minute)
	q := dial(t, qemu(t, "-M", "q35,accel=tcg", "-m", "32"))
	if err := q.CtrlAltDel(ctx); err != nil {
		t.Error(err)
	}
	if err := q.PowerButton(ctx); err != nil {
		t.Error(err)
	}
	if err := q.awaitEvent(ctx, "POWERDOWN"); err != nil {
		t.Errorf("QEMU did not report the power button: %v", err)
	}
}

func TestRealQEMUReportsABalloonThatNobodyInflates(t *testing.T) {
	ctx := within(t, time.Minute)
	q := dial(t, qemu(t, "-M", "microvm,accel=tcg", "-m", "64", "-device", "virtio-balloon-device"))
	if have, err := Balloon(ctx, q, 0); err != nil || have != 64 {
		t.Fatalf("the guest has %d MiB, %v, want 64", have, err)
	}
	began := time.Now()
	if have, err := Balloon(ctx, q, 32); err != nil || have != 64 {
		t.Errorf("the guest has %d MiB, %v, want 64: no guest frees any", have, err)
	}
	if took := time.Since(began); took < balloonSettles || took > 20*balloonSettles {
		t.Errorf("it took %s to see that the balloon does not move, want %s", took, balloonSettles)
	}
}
