package control

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"microvm/internal/hypervisor"
)

// states returns its answers one after the other, and repeats the last one.
type states struct {
	answers []string
	asked   atomic.Int64
}

func (s *states) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i := min(int(s.asked.Add(1)), len(s.answers)) - 1
	_, _ = w.Write([]byte(s.answers[i]))
}

func TestAVMIsAwaitedUntilItRuns(t *testing.T) {
	for method, answers := range map[string][]string{
		"cloud-hypervisor": {`{"state": "Created"}`, `{"state": "Created"}`, `{"state": "Running"}`},
		"firecracker":      {`{"state": "Not started"}`, `{"state": "Not started"}`, `{"state": "Running"}`},
	} {
		t.Run(method, func(t *testing.T) {
			s := &states{answers: answers}
			if err := open(t, method, serveAPI(t, s)).AwaitRunning(within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			if n := s.asked.Load(); n != int64(len(answers)) {
				t.Errorf("asked %d times, want %d", n, len(answers))
			}
		})
		t.Run(method+" never", func(t *testing.T) {
			s := &states{answers: answers[:1]}
			err := open(t, method, serveAPI(t, s)).AwaitRunning(within(t, 300*time.Millisecond))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
			// Pauses grow: a VM that never runs is asked ever more rarely.
			if n := s.asked.Load(); n > 20 {
				t.Errorf("asked %d times in 300 ms", n)
			}
		})
	}
	t.Run("an error", func(t *testing.T) {
		err := open(t, "firecracker", serveAPI(t, &states{answers: []string{"garbage"}})).AwaitRunning(within(t, time.Minute))
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the first error", err)
		}
	})
}

// TestCPUsAreAwaited uses this process as the hypervisor: its threads are the CPUs.
func TestCPUsAreAwaited(t *testing.T) {
	l := &lkvm{}
	dir := t.TempDir()
	listener, err := net.Listen("unixpacket", filepath.Join(dir, "web.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	clients := map[string]Client{
		"kvm-vcpu-0":   listenAs(t, l.serve),
		"crosvm_vcpu0": mustOpen(t, hypervisor.Control{Method: "crosvm", Socket: "web.sock"}, dir),
	}
	for thread, client := range clients {
		if err := client.AwaitRunning(within(t, 50*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v before there is a CPU, want the deadline", thread, err)
		}
		done := make(chan error, 1)
		go func() { done <- client.AwaitRunning(within(t, time.Minute)) }()
		haveThread(t, thread)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", thread, err)
		}
	}
}

func TestOnlyAShutdownThatIsReportedIsOne(t *testing.T) {
	for event, want := range map[string]bool{"SHUTDOWN": true, "RESET": true, "POWERDOWN": false} {
		path := serve(t, func(c net.Conn, r *bufio.Scanner) {
			polite(c, r)
			say(c, strings.ReplaceAll(`{"event": "STOP"}`+"\n"+`{"event": "NAME"}`+"\n", "NAME", event))
			hold(r)
		})
		q, err := dialPath(within(t, time.Minute), path)
		if err != nil {
			t.Fatal(err)
		}
		limit := time.Minute
		if !want {
			limit = 50 * time.Millisecond
		}
		if err := q.AwaitShutdown(within(t, limit)); (err == nil) != want {
			t.Errorf("%s: %v", event, err)
		}
		_ = q.Close()
	}
	silent := open(t, "cloud-hypervisor", serveAPI(t, &states{answers: []string{"{}"}}))
	if err := silent.AwaitShutdown(within(t, 20*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hypervisor that reports nothing: %v, want the deadline", err)
	}
}
