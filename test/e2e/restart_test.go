package e2e

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a restart may cost besides the guest's own way down and up: half a second,
// where a process costs what it does on a real CPU. Beside other work everything
// takes as many times longer as a process does: 25 times at most, 12.5 s.
const (
	mostBookkeeping = 500 * time.Millisecond
	aProcess        = 2 * time.Millisecond
	slowest         = 25
)

// bookkeepingLimit is mostBookkeeping on a machine where a process costs so much. A
// machine that is slower than the slowest is busy with something else, and its clock
// says nothing of us, nor does that of an emulated one: the test, which should be
// one of cost only, is skipped.
func bookkeepingLimit(t *testing.T, process time.Duration) time.Duration {
	t.Helper()
	if host == "vm" && sh(t, "systemd-detect-virt || true") != "kvm" {
		t.Skip("the processor of this host is emulated, and emulates another one: MICROVM_TEST_ACCEL=kvm takes a real one")
	}
	t.Logf("a process costs %s here", process)
	if process > slowest*aProcess {
		t.Skipf("a process costs %s here: the machine is busy with something else", process)
	}
	return time.Duration(float64(mostBookkeeping) * max(1, float64(process)/float64(aProcess)))
}

// processCost is what a process costs here and now.
func processCost(t *testing.T) time.Duration {
	t.Helper()
	return processCostWhile(t, func() { time.Sleep(100 * time.Millisecond) })
}

// processCostWhile is what a process costs on average while do runs: a machine that
// has time for us now may have none a moment later.
func processCostWhile(t *testing.T, do func()) time.Duration {
	t.Helper()
	stop, mean := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		var total time.Duration
		for n := 1; ; n++ {
			began := time.Now()
			if err := exec.Command("/bin/true").Run(); err != nil {
				t.Error(err)
			}
			total += time.Since(began)
			select {
			case <-stop:
				mean <- total / time.Duration(n)
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	func() {
		defer close(stop)
		do()
	}()
	return <-mean
}

func TestARestartWithSharesCostsLittleBesidesTheGuest(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/a /srv/b")
	name := install(t, spec("shares", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-shares", 1)}
		s["shares"] = []any{
			map[string]any{"tag": "a", "source": "/srv/a", "proto": "virtiofs"},
			map[string]any{"tag": "b", "source": "/srv/b", "proto": "virtiofs"},
		}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.mount=a:/a:virtiofs", "mvguest.mount=b:/b:virtiofs"}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	restartCostsLittle(t, name)
	waitFor(t, name, "found marker on /data")
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}

// restartCostsLittle restarts a VM, and measures that where it can be.
func restartCostsLittle(t *testing.T, name string) {
	t.Helper()
	var took time.Duration
	restart := func() time.Duration { return processCostWhile(t, func() { took = bookkeeping(t, name) }) }
	process := restart()
	t.Run("cost", func(t *testing.T) {
		limit := bookkeepingLimit(t, process)
		// What else the machine does comes on top, and is less another time.
		for measured := 1; took > limit && measured < 3; measured++ {
			eventually(t, patience, "journalctl -q -o cat _PID=$(systemctl show -P MainPID microvm@"+name+") | grep 'test guest is up'")
			limit = bookkeepingLimit(t, restart())
		}
		if took > limit {
			t.Errorf("a restart costs %s besides the guest's own time, more than %s", took, limit)
		}
	})
}

// bookkeeping restarts a VM and returns what that took besides the guest: from
// the call until the guest was asked to go down, and from the end of the old
// hypervisor until the new one's program ran.
func bookkeeping(t *testing.T, name string) time.Duration {
	t.Helper()
	unit := "microvm@" + name
	pid, err := strconv.Atoi(sh(t, "systemctl show -P MainPID "+unit))
	if err != nil {
		t.Fatal(err)
	}
	old, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("hold the hypervisor: %v", err)
	}
	exited := make(chan time.Duration, 1)
	go func() {
		defer func() { _ = unix.Close(old) }()
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(old), Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				break
			}
		}
		exited <- monotonic()
	}()
	began := monotonic()
	sh(t, "systemctl restart "+unit)
	asked := since(t, "journalctl -b -o short-monotonic -t microvm@"+name+" | grep 'asking the guest to go down by' | tail -n 1 | sed 's/^\\[ *\\([0-9]*\\)\\.\\([0-9]*\\)\\].*/\\1\\2/'")
	started := since(t, "systemctl show -P ExecMainStartTimestampMonotonic "+unit)
	gone := <-exited
	t.Logf("restart: asked after %s, hypervisor started %s after the old one's end", asked-began, started-gone)
	if asked < began || started < gone {
		t.Fatalf("the clocks disagree: call %s, asked %s, old end %s, new start %s", began, asked, gone, started)
	}
	return asked - began + started - gone
}

// monotonic is CLOCK_MONOTONIC, as systemd's timestamps are.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return time.Duration(now.Nano())
}

// since reads a timestamp in µs that a script prints.
func since(t *testing.T, script string) time.Duration {
	t.Helper()
	us, err := strconv.ParseInt(strings.TrimSpace(sh(t, script)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return time.Duration(us) * time.Microsecond
}
