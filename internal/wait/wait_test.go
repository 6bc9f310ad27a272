package wait

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"microvm/internal/exit"
)

// manager is a stand-in for the service manager, which only listens.
func manager(t *testing.T) (socket string, told func() []string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return socket, func() []string {
		var out []string
		for buf := make([]byte, 4096); ; {
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := conn.Read(buf)
			if err != nil {
				return out
			}
			out = append(out, string(buf[:n]))
		}
	}
}

func there(path string) func() (bool, error) {
	return func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	}
}

func TestAFileThatComesLaterIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	socket, told := manager(t)
	var logged atomic.Value
	p := &Patience{Limit: 20 * time.Second, Notify: socket, Log: func(line string) {
		logged.Store(line)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Error(err)
		}
	}}
	began := time.Now()
	if err := p.For(context.Background(), "device "+path, there(path), Dir(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("it took %s", took)
	}
	got := told()
	if len(got) < 2 || !strings.HasPrefix(got[0], "STATUS=waiting for device "+path+"\nEXTEND_TIMEOUT_USEC=") || got[1] != "STATUS=" {
		t.Errorf("the service manager was told %q", got)
	}
	if want := "waiting for device " + path + ", 20 s at most"; logged.Load() != want {
		t.Errorf("logged %q, want %q", logged.Load(), want)
	}
}

func TestWhatIsThereIsNotWaitedFor(t *testing.T) {
	socket, told := manager(t)
	p := &Patience{Limit: time.Minute, Notify: socket}
	if err := p.For(context.Background(), "nothing", func() (bool, error) { return true, nil }); err != nil {
		t.Error(err)
	}
	failure := errors.New("broken")
	if err := p.For(context.Background(), "nothing", func() (bool, error) { return false, failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if got := told(); len(got) > 0 {
		t.Errorf("the service manager was told %q", got)
	}
}

func TestTheTimeIsForAllWaitsTogether(t *testing.T) {
	p := &Patience{Limit: 3 * time.Second}
	never := func() (bool, error) { return false, nil }
	began := time.Now()
	for range 3 {
		if err := p.For(context.Background(), "never", never, Dir(t.TempDir())); !errors.Is(err, ErrNotThere) {
			t.Error(err)
		}
	}
	if took := time.Since(began); took < 3*time.Second || took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
	p = &Patience{}
	began = time.Now()
	if err := p.For(context.Background(), "never", never); !errors.Is(err, ErrNotThere) || time.Since(began) > 20*time.Second {
		t.Errorf("without patience: %v after %s", err, time.Since(began))
	}
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	p := &Patience{Limit: time.Minute}
	began := time.Now()
	err := p.For(ctx, "interface eth7", func() (bool, error) { return false, nil }, Dir("/dev"))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "interface eth7") || time.Since(began) > 40*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestAWaitWithoutEventsLooksNowAndThen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	time.AfterFunc(300*time.Millisecond, func() { _ = os.WriteFile(path, nil, 0o600) })
	p := &Patience{Limit: time.Minute}
	forbidden := func() (*os.File, error) { return nil, os.ErrPermission }
	if err := p.For(context.Background(), "node", there(path), forbidden); err != nil {
		t.Error(err)
	}
}

func TestADirectoryThatIsNotThereYet(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "net", "tun")
	time.AfterFunc(200*time.Millisecond, func() { _ = os.Mkdir(filepath.Dir(path), 0o700) })
	p := &Patience{Limit: time.Minute}
	if err := p.For(context.Background(), "net", there(filepath.Dir(path)), Dir(filepath.Dir(path))); err != nil {
		t.Error(err)
	}
}

func TestTheEnvironmentSetsThePatience(t *testing.T) {
	for text, want := range map[string]time.Duration{"": Default, "0": 0, "5": 5 * time.Second, "86400": 24 * time.Hour} {
		t.Setenv(Variable, text)
		if p, err := FromEnv(nil); err != nil || p.Limit != want {
			t.Errorf("%q: %v, %v; want %s", text, p, err, want)
		}
	}
	for _, text := range []string{"-1", "30s", "1.5", "86401", "9999999999999999999"} {
		t.Setenv(Variable, text)
		if _, err := FromEnv(nil); err == nil || !strings.Contains(exit.Text(err), "invalid "+Variable) || !strings.Contains(exit.Text(err), "\nhint: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
