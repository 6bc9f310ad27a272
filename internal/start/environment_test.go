package start

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"microvm/internal/hypervisor"
)

func TestAPlansVariablesReplaceOurs(t *testing.T) {
	t.Setenv("HOME", "/root")
	t.Setenv("HOMEWORK", "kept")
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("MICROVM_STATE_DIR", "/srv")
	var got []string
	for _, v := range environment(&hypervisor.Plan{Env: []string{"HOME=."}}) {
		for _, name := range []string{"HOME", "NOTIFY_SOCKET", "MICROVM_"} {
			if strings.HasPrefix(v, name) {
				got = append(got, v)
			}
		}
	}
	if want := []string{"HOMEWORK=kept", "HOME=."}; !slices.Equal(got, want) {
		t.Errorf("the hypervisor gets %q, want %q", got, want)
	}
}

func TestAFileIsWaitedForWithItsDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	path := filepath.Join(".lkvm", "web.sock")
	go func() { done <- waitFile(ctx, path) }()
	pause := func() { time.Sleep(20 * time.Millisecond) }
	pause()
	if err := os.Mkdir(".lkvm", 0o700); err != nil {
		t.Fatal(err)
	}
	pause()
	select {
	case err := <-done:
		t.Fatalf("it stopped to wait before the file was there: %v", err)
	default:
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := waitFile(ctx, filepath.Join("absent", "web.sock")); err == nil {
		t.Error("a file that never comes was found")
	}
}
