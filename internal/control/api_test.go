package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"microvm/internal/hypervisor"
)

// socketPath is short enough for a Unix socket, which that of t.TempDir is not.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// hypervisorAPI answers like a hypervisor, and records the requests. Its guest follows its
// balloon at once.
type hypervisorAPI struct {
	mu      sync.Mutex
	asked   []string
	balloon int // MiB
	plugged int // MiB by virtio-mem
	answer  map[string]string
}

func (h *hypervisorAPI) held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.balloon
}

func (h *hypervisorAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	call := strings.TrimSpace(r.Method + " " + r.URL.Path + " " + string(body))
	h.asked = append(h.asked, call)
	var resize struct {
		CH *int64 `json:"desired_balloon"`
		FC *int   `json:"amount_mib"`
	}
	if json.Unmarshal(body, &resize) == nil {
		if resize.CH != nil {
			h.balloon = int(*resize.CH >> 20)
		}
		if resize.FC != nil {
			h.balloon = *resize.FC
		}
	}
	text, ok := h.answer[r.Method+" "+r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	plugged := ""
	if h.plugged > 0 {
		plugged = fmt.Sprintf(`"hotplugged_size":%d,`, h.plugged<<20)
	}
	_, _ = strings.NewReplacer(
		"@BALLOON-MIB@", fmt.Sprint(h.balloon),
		"@BALLOON-PAGES@", fmt.Sprint(h.balloon<<8),
		"@BALLOON@", fmt.Sprint(h.balloon<<20),
		"@PLUGGED@", plugged,
		"@ACTUAL@", fmt.Sprint((standInMemory+h.plugged-h.balloon)<<20),
	).WriteString(w, text)
}

func serveAPI(t *testing.T, h http.Handler) string {
	t.Helper()
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return path
}

func open(t *testing.T, method, path string) Client {
	t.Helper()
	c, err := Open(t.Context(), hypervisor.Control{Method: method, Socket: filepath.Base(path)}, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCloudHypervisorIsAskedInItsOwnWords(t *testing.T) {
	h := &hypervisorAPI{answer: map[string]string{"GET /api/v1/vm.info": chVMInfo}}
	c := open(t, "cloud-hypervisor", serveAPI(t, h))
	if ok, err := c.Running(t.Context()); !ok || err != nil {
		t.Errorf("running: %t, %v", ok, err)
	}
	if err := c.PowerButton(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.CtrlAltDel(t.Context()); err == nil {
		t.Error("it has no keyboard")
	}
	if got, err := Balloon(t.Context(), c, 200); got != 200 || err != nil {
		t.Errorf("balloon: %d, %v", got, err)
	}
	for _, want := range []string{"PUT /api/v1/vm.power-button", `PUT /api/v1/vm.resize {"desired_balloon":58720256}`} {
		if !strings.Contains(strings.Join(h.asked, "\n"), want) {
			t.Errorf("it was not asked %q but\n%s", want, strings.Join(h.asked, "\n"))
		}
	}
}

func TestFirecrackerIsAskedInItsOwnWords(t *testing.T) {
	h := &hypervisorAPI{answer: map[string]string{
		"GET /": firecrackerInstance, "GET /machine-config": firecrackerMachine, "GET /balloon/statistics": firecrackerBalloon,
	}}
	c := open(t, "firecracker", serveAPI(t, h))
	if ok, err := c.Running(t.Context()); !ok || err != nil {
		t.Errorf("running: %t, %v", ok, err)
	}
	if err := c.CtrlAltDel(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.PowerButton(t.Context()); err == nil {
		t.Error("it has no power button")
	}
	if got, err := Balloon(t.Context(), c, 200); got != 200 || err != nil {
		t.Errorf("balloon: %d, %v", got, err)
	}
	for _, want := range []string{`PUT /actions {"action_type":"SendCtrlAltDel"}`, `PATCH /balloon {"amount_mib":56}`} {
		if !strings.Contains(strings.Join(h.asked, "\n"), want) {
			t.Errorf("it was not asked %q but\n%s", want, strings.Join(h.asked, "\n"))
		}
	}
}

// TestAPIsThatMisbehaveAreErrorsInTime: the other side may be hostile.
func TestAPIsThatMisbehaveAreErrorsInTime(t *testing.T) {
	huge := strings.Repeat("x", maxAnswer+2)
	for name, c := range map[string]struct{ answer, want string }{
		"garbage":      {"garbage\n\n", "malformed HTTP"},
		"closed":       {"", "EOF"},
		"half a line":  {"HTTP/1.1 20", "malformed"},
		"half an body": {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "EOF"},
		"no JSON":      {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "unexpected answer: "},
		"huge":         {"HTTP/1.1 200 OK\r\nContent-Length: 1048578\r\n\r\n" + huge, "longer than"},
		"huge header":  {"HTTP/1.1 200 OK\r\nX: " + huge + "\r\n\r\n", "headers"},
		"refused":      {"HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\nno\nballoon", "400 Bad Request: no balloon"},
		"elsewhere":    {"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n", "302 Found"},
	} {
		t.Run(name, func(t *testing.T) {
			client := open(t, "cloud-hypervisor", answerAlways(t, c.answer, false))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := client.Running(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("late", func(t *testing.T) {
		client := open(t, "firecracker", answerAlways(t, "", true))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := client.CtrlAltDel(ctx); err == nil || time.Since(began) > time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
	t.Run("no socket", func(t *testing.T) {
		client := open(t, "firecracker", socketPath(t))
		if _, err := client.Running(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Error(err)
		}
	})
}

// answerAlways answers every connection with the same bytes, or never.
func answerAlways(t *testing.T, answer string, never bool) string {
	t.Helper()
	path := socketPath(t)
	l, err := net.Listen("unix", path)
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
			go func() {
				_, _ = conn.Read(make([]byte, 4096))
				if never {
					time.Sleep(10 * time.Second)
				}
				_, _ = io.WriteString(conn, answer)
				_ = conn.Close()
			}()
		}
	}()
	return path
}

// TestProgramsAreAskedInTheirOwnWords uses programs that record their arguments, and
// misbehave.
func TestProgramsAreAskedInTheirOwnWords(t *testing.T) {
	c, dir := crosvmStandIn(t)
	if err := c.PowerButton(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := Balloon(t.Context(), c, 200); got != 200 || err != nil {
		t.Errorf("crosvm: %d, %v", got, err)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"powerbtn s", "balloon 58720256 s"} {
		if !strings.Contains(string(asked), want+"\n") {
			t.Errorf("%q was not called, but\n%s", want, asked)
		}
	}
	for _, bad := range []struct{ script, want string }{
		{"echo 'no such VM' >&2; exit 3", "no such VM"},
		{"echo garbage", "no size of the balloon in: "},
		{"yes | head -c 3000000", "no size of the balloon in: "},
	} {
		if _, err := Balloon(t.Context(), crosvmScript(t, dir, bad.script), 0); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", bad.script, err, bad.want)
		}
	}
	if os.Getuid() == 0 {
		c := mustOpen(t, hypervisor.Control{Method: "crosvm", Socket: "s", Program: filepath.Join(dir, "crosvm")}, dir)
		if err := c.PowerButton(t.Context()); err == nil || !strings.Contains(err.Error(), "as root") {
			t.Errorf("a package's program as root: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := crosvmScript(t, dir, "exec sleep 30").PowerButton(ctx); err == nil || !strings.Contains(err.Error(), "timed out waiting for an answer") {
		t.Errorf("late: %v", err)
	}
}

func mustOpen(t *testing.T, c hypervisor.Control, dir string) Client {
	t.Helper()
	client, err := Open(t.Context(), c, dir)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
