package start

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"microvm/test/testutil"
)

// TestAStartIsProlongedWhileThereIsProgress, within its bound.
func TestAStartIsProlongedWhileThereIsProgress(t *testing.T) {
	const works, waits = "while :; do :; done", "exec sleep 60"
	cases := map[string]struct {
		vm       string
		reports  bool
		began    time.Duration
		prolongs bool
	}{
		"a guest that works":                       {works, false, 0, true},
		"one that neither works nor reports":       {waits, false, 0, false},
		"one that waits, and reports":              {waits, true, 0, true},
		"one that works and never said anything":   {works, false, maxSilent + time.Second, false},
		"one that works, and has reported":         {works, true, maxSilent + time.Second, true},
		"one that still reports beyond all bounds": {works, true, maxBoot + time.Second, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "n")
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = manager.Close() }()
			vm := exec.Command("/bin/sh", "-c", c.vm)
			if err := vm.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = vm.Process.Kill()
				_ = vm.Wait()
			}()
			if c.vm == waits {
				// On a busy machine the process waits for a CPU at first, which counts.
				testutil.Until(t, "a process that only waits", func() bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.Process.Pid))
					return err == nil && strings.Contains(string(stat), "(sleep) S ")
				})
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			child := &child{orders: childOrders{PID: vm.Process.Pid}, notify: socket, began: time.Now().Add(-c.began)}
			if c.reports {
				go func() {
					for ctx.Err() == nil {
						child.reports.Add(1)
						time.Sleep(10 * time.Millisecond)
					}
				}()
			}
			go child.watchProgress(ctx, 200*time.Millisecond)
			limit := time.Second
			if c.prolongs {
				limit = 30 * time.Second // the machine is busy
			}
			_ = manager.SetReadDeadline(time.Now().Add(limit))
			buf := make([]byte, 256)
			n, err := manager.Read(buf)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if prolongs := err == nil; prolongs != c.prolongs || prolongs && string(buf[:n]) != "EXTEND_TIMEOUT_USEC=30000000" {
				t.Errorf("prolonged: %t, %q", prolongs, buf[:n])
			}
		})
	}
}

// TestCPUTimeIsReadOfAnyName of a process.
func TestCPUTimeIsReadOfAnyName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a) R (b")
	if err := os.Symlink("/bin/sh", path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, measure := range []func(int) time.Duration{cpuTime, cpuWanted} {
		testutil.Until(t, "some CPU time", func() bool { return measure(cmd.Process.Pid) > 0 })
		if used := measure(cmd.Process.Pid); used > 2*time.Minute {
			t.Errorf("it used %s", used)
		}
		if used := measure(1 << 22); used != 0 {
			t.Errorf("no process used %s", used)
		}
	}
}
