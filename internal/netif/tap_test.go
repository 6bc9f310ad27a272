package netif

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"microvm/test/need"
)

const owner = 12345

// inNewNetwork runs the test in a new network namespace, on a thread that ends with it.
func inNewNetwork(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	need.Root(t)
	need.Program(t, "ip")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun; modprobe tun")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		test(t)
	}()
	<-done
}

// ip runs ip(8), which shows effects independently of the code under test.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func names(t *testing.T) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(ip(t, "-brief", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		if name != "lo" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// keep is a save function that keeps the last record.
func keep(to *Record) func(Record) error {
	return func(r Record) error { *to = r; return nil }
}

func set(n int) Taps {
	t := Taps{Alias: "microvm web", Owner: owner}
	for i := range n {
		t.Taps = append(t.Taps, Tap{Name: fmt.Sprintf("vm-%d", i), VnetHdr: true})
	}
	return t
}

func TestUpMakesTapsThatTheirOwnerCanUseAndDownRemovesThem(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		var record Record
		taps := set(2)
		taps.Taps[1].MultiQueue = true
		if err := taps.Up(Record{}, keep(&record)); err != nil {
			t.Error(err)
			return
		}
		for i, want := range [][]string{{"vnet_hdr on", "persist on", "user 12345", "alias microvm web", "UP"}, {"multi_queue"}} {
			got := ip(t, "-d", "link", "show", fmt.Sprintf("vm-%d", i))
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("vm-%d has no %q:\n%s", i, w, got)
				}
			}
			if strings.Contains(got, " group root") {
				t.Errorf("vm-%d can be used by members of group 0 only:\n%s", i, got)
			}
		}
		attach(t, "vm-0", owner, nil)
		attach(t, "vm-0", owner+1, unix.EPERM)
		if err := record.Down(); err != nil {
			t.Error(err)
		}
		if left := names(t); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		if err := record.Down(); err != nil {
			t.Errorf("a second down: %v", err)
		}
	})
}

// attach opens a tap as a user without privileges, on a thread of its own.
func attach(t *testing.T, name string, uid int, want error) {
	t.Helper()
	network, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = network.Close() }()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			// This thread only; syscall.Setresuid would change all.
			if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return e
			}
			ifr, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}()
	}()
	if err := <-result; !errors.Is(err, want) {
		t.Errorf("attaching to %s as %d: %v, want %v", name, uid, err, want)
	}
}

func TestUpReusesWhatFitsAndRemakesWhatDoesNot(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		var first, second, third Record
		taps := set(1)
		err := errors.Join(taps.Up(Record{}, keep(&first)), taps.Up(first, keep(&second)))
		if err != nil || first.Interfaces["vm-0"] != second.Interfaces["vm-0"] {
			t.Errorf("a tap that fits was not reused: %v, %v, %v", err, first, second)
		}
		taps.Taps[0].MultiQueue = true
		if err := taps.Up(second, keep(&third)); err != nil || third.Interfaces["vm-0"] == second.Interfaces["vm-0"] {
			t.Errorf("a tap that does not fit was reused: %v, %v", err, third)
		}
		// The next set does not have it any more.
		if err := (Taps{Alias: "microvm web", Owner: owner}).Up(third, keep(&third)); err != nil || len(names(t)) != 0 {
			t.Errorf("what is not wanted any more is still there: %v, %v", err, names(t))
		}
	})
}

func TestUpRefusesANameThatIsTakenAndMakesNothing(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		ip(t, "link", "add", "vm-1", "type", "bridge")
		err := set(2).Up(Record{}, func(Record) error { return nil })
		if err == nil || !strings.Contains(err.Error(), `create tap "vm-1": the name is taken by a bridge interface`) {
			t.Errorf("%v", err)
		}
		ip(t, "link", "delete", "vm-1")
		ip(t, "tuntap", "add", "vm-1", "mode", "tap")
		ip(t, "link", "set", "vm-1", "alias", "microvm db")
		err = set(2).Up(Record{}, func(Record) error { return nil })
		if err == nil || !strings.Contains(err.Error(), `with alias "microvm db"`) {
			t.Errorf("another VM's tap: %v", err)
		}
		if got := names(t); !slices.Equal(got, []string{"vm-1"}) {
			t.Errorf("interfaces: %v", got)
		}
	})
}

func TestAFailureHalfwayRemovesWhatThisCallMade(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		taps := set(4)
		taps.Script = filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(taps.Script, []byte("#!/bin/sh\n[ $id != vm-2 ] || { echo no luck >&2; exit 3; }\n"), 0o700); err != nil {
			t.Error(err)
		}
		var record Record
		err := taps.Up(Record{}, keep(&record))
		if err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Errorf("%v", err)
		}
		if got := names(t); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
		// A name that the kernel refuses, after others were made.
		taps = set(3)
		taps.Taps[2].Name = "vm%d%d"
		if err := taps.Up(Record{}, keep(&record)); err == nil {
			t.Error("a bad name was accepted")
		}
		if got := names(t); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	})
}

// TestACallThatWasKilledCanBeUndone stops at each save, as a kill would.
func TestACallThatWasKilledCanBeUndone(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		ip(t, "link", "add", "other", "type", "bridge")
		var record Record
		if err := set(3).Up(Record{}, keep(&record)); err != nil {
			t.Error(err)
			return
		}
		// What is on record when the process dies before the second save.
		early := Record{Group: record.Group, Alias: record.Alias, Interfaces: map[string]int{"vm-0": 0, "vm-1": 0, "vm-2": 0}}
		// And one tap that has no alias yet.
		ip(t, "link", "set", "vm-2", "alias", "")
		if err := early.Down(); err != nil {
			t.Error(err)
		}
		if got := names(t); !slices.Equal(got, []string{"other"}) {
			t.Errorf("left: %v", got)
		}
	})
}

func TestDownLeavesWhatBelongsToSomebodyElse(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		var record Record
		if err := set(2).Up(Record{}, keep(&record)); err != nil {
			t.Error(err)
			return
		}
		// Another program adds an interface to the group and reuses a name.
		ip(t, "link", "add", "guest", "type", "bridge")
		ip(t, "link", "set", "guest", "group", fmt.Sprint(record.Group))
		ip(t, "link", "delete", "vm-1")
		ip(t, "link", "add", "vm-1", "type", "bridge")
		if err := record.Down(); err != nil {
			t.Error(err)
		}
		if got := names(t); !slices.Equal(got, []string{"guest", "vm-1"}) {
			t.Errorf("left: %v", got)
		}
	})
}

// TestManyTapsGoInOneTransaction: one by one, each would take an RCU grace period.
func TestManyTapsGoInOneTransaction(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		const many = 64
		took := func(remove func(Record) error) time.Duration {
			var record Record
			if err := set(many).Up(Record{}, keep(&record)); err != nil {
				t.Error(err)
			}
			if got := len(names(t)); got != many {
				t.Errorf("%d interfaces", got)
			}
			began := time.Now()
			if err := remove(record); err != nil {
				t.Error(err)
			}
			took := time.Since(began)
			if got := names(t); len(got) != 0 {
				t.Errorf("left: %v", got)
			}
			return took
		}
		// The least of three: another process may slow one of them down.
		least := func(remove func(Record) error) time.Duration { return min(took(remove), took(remove), took(remove)) }
		single := least(func(record Record) error {
			all, err := links()
			doomed := slices.DeleteFunc(slices.Clone(all), func(l netlink.Link) bool { _, ours := record.Interfaces[l.Attrs().Name]; return !ours })
			return errors.Join(err, deleteAll(all, doomed, 0))
		})
		together := least(Record.Down)
		t.Logf("%d taps: one by one %s, together %s", many, single, together)
		if together > single/2 {
			t.Errorf("%d taps take %s together, and %s one by one", many, together, single)
		}
	})
}

// TestATapThatNobodyUsesIsTakenOver: microvm.nix and systemd-networkd create taps for
// the hypervisors' account, without a mark of the VM.
func TestATapThatNobodyUsesIsTakenOver(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		user := fmt.Sprint(owner)
		ip(t, "tuntap", "add", "name", "vm-0", "mode", "tap", "user", user, "vnet_hdr")
		ip(t, "tuntap", "add", "name", "vm-1", "mode", "tap", "user", user, "multi_queue")
		ip(t, "link", "set", "vm-0", "up")
		fits, err := Index("vm-0")
		if err != nil {
			t.Error(err)
		}
		// One that a hypervisor is attached to is in use.
		fd, err := hold("vm-0")
		if err != nil {
			t.Error(err)
		}
		var record Record
		if err := set(2).Up(Record{}, keep(&record)); err == nil || !strings.Contains(err.Error(), "a running hypervisor uses") {
			t.Errorf("a tap in use: %v", err)
		}
		if err := RemoveUnclaimed([]string{"vm-0"}, owner, "/dev"); err != nil || !Exists("vm-0") {
			t.Errorf("a tap in use was removed (%v)", err)
		}
		_ = unix.Close(fd)
		if err := set(2).Up(Record{}, keep(&record)); err != nil {
			t.Error(err)
		}
		if record.Interfaces["vm-0"] != fits {
			t.Error("a tap that fits was created again, so it has lost what networkd configured")
		}
		if out := ip(t, "-d", "link", "show", "vm-1"); !strings.Contains(out, "alias microvm web") || strings.Contains(out, "multi_queue on") {
			t.Errorf("one that does not fit is %s", out)
		}
		if err := record.Down(); err != nil || Exists("vm-0") || Exists("vm-1") {
			t.Errorf("they are left (%v)", err)
		}
		// A tap of another account is kept.
		ip(t, "tuntap", "add", "name", "vm-0", "mode", "tap", "user", fmt.Sprint(owner+1))
		if err := set(1).Up(Record{}, keep(&record)); err == nil || !strings.Contains(err.Error(), "is taken by") {
			t.Errorf("a tap of another account: %v", err)
		}
	})
}

// hold opens a tap's only queue, as a hypervisor does.
func hold(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}
