package netif

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// onVeth runs the test in a new network namespace with a pair of interfaces, p0 and p1,
// and with that namespace's /sys.
func onVeth(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	// A container has no devtmpfs.
	need.InHost(t, need.VM)
	inNewNetwork(t, func(t *testing.T) {
		if err := ownMounts(); err != nil {
			t.Errorf("mounts: %v", err)
			return
		}
		ip(t, "link", "add", "p0", "type", "veth", "peer", "name", "p1")
		ip(t, "link", "set", "p0", "up")
		ip(t, "link", "set", "p1", "up")
		test(t)
	})
}

// ownMounts gives this thread mounts of its own, so that the machine's /sys
// stays as it is, with this network's sysfs.
func ownMounts() error {
	return errors.Join(
		unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
	)
}

func macvtaps(mode string) Macvtaps {
	return Macvtaps{Alias: "microvm web", Owner: owner, Group: owner + 1, NodeDir: "/dev",
		Macvtaps: []Macvtap{{Name: "mv-0", Link: "p0", MAC: "02:00:00:00:00:01", Mode: mode}}}
}

func TestUpMakesAMacvtapInEachModeAndHandsItsDeviceOver(t *testing.T) {
	for _, mode := range []string{"private", "vepa", "bridge", "passthru", "source"} {
		t.Run(mode, func(t *testing.T) {
			onVeth(t, func(t *testing.T) {
				var record Record
				if err := macvtaps(mode).Up(context.Background(), Record{}, keep(&record)); err != nil {
					t.Error(err)
					return
				}
				got := ip(t, "-d", "link", "show", "mv-0")
				for _, want := range []string{"macvtap mode " + mode, "02:00:00:00:00:01", "ALLMULTI", "UP", "alias microvm web"} {
					if !strings.Contains(got, want) {
						t.Errorf("it has no %q:\n%s", want, got)
					}
				}
				info, err := os.Stat("/dev/tap" + strconv.Itoa(record.Interfaces["mv-0"]))
				if err != nil {
					t.Error(err)
					return
				}
				st, _ := info.Sys().(*syscall.Stat_t)
				if st.Uid != owner || st.Gid != owner+1 || info.Mode().Perm() != 0o660 {
					t.Errorf("the device belongs to %d:%d with mode %v", st.Uid, st.Gid, info.Mode())
				}
				if v6, err := os.ReadFile("/proc/thread-self/net/if_inet6"); err == nil && strings.Contains(string(v6), "mv-0") {
					t.Errorf("it has an IPv6 address:\n%s", v6)
				}
				if err := record.Down(); err != nil {
					t.Error(err)
				}
				if left := names(t); !slices.Equal(left, []string{"p0", "p1"}) {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}

func TestMacvtapsThatCannotBeAreRefusedWithTheReason(t *testing.T) {
	onVeth(t, func(t *testing.T) {
		var record Record
		if err := macvtaps("bridge").Up(context.Background(), Record{}, keep(&record)); err != nil {
			t.Error(err)
			return
		}
		// The devices of all networks share /dev.
		defer func() {
			if err := record.Down(); err != nil {
				t.Error(err)
			}
		}()
		parent, err := os.ReadFile("/sys/class/net/p0/address")
		if err != nil {
			t.Error(err)
		}
		for want, second := range map[string]Macvtap{
			`interface "nowhere" not found`:     {Name: "mv-1", Link: "nowhere", MAC: "02:00:00:00:00:02", Mode: "bridge"},
			`already the address of "mv-0"`:     {Name: "mv-1", Link: "p0", MAC: "02:00:00:00:00:01", Mode: "bridge"},
			`is the address of "p0" itself`:     {Name: "mv-1", Link: "p0", MAC: strings.TrimSpace(string(parent)), Mode: "bridge"},
			`mode passthru needs "p0" exclus`:   {Name: "mv-1", Link: "p0", MAC: "02:00:00:00:00:02", Mode: "passthru"},
			`the name is taken by a veth inter`: {Name: "p1", Link: "p0", MAC: "02:00:00:00:00:02", Mode: "bridge"},
		} {
			other := Macvtaps{Alias: "microvm db", NodeDir: "/dev", Macvtaps: []Macvtap{
				{Name: "mv-2", Link: "p0", MAC: "02:00:00:00:00:09", Mode: "bridge"}, second}}
			err := other.Up(context.Background(), Record{}, func(Record) error { return nil })
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if left := names(t); !slices.Equal(left, []string{"mv-0", "p0", "p1"}) {
				t.Errorf("after a refusal: %v", left)
			}
		}
	})
}

func TestASecondUpReplacesTheFirst(t *testing.T) {
	onVeth(t, func(t *testing.T) {
		var record Record
		err := errors.Join(
			macvtaps("bridge").Up(context.Background(), Record{}, keep(&record)),
			macvtaps("vepa").Up(context.Background(), record, keep(&record)),
		)
		if got := ip(t, "-d", "link", "show", "mv-0"); err != nil || !strings.Contains(got, "mode vepa") {
			t.Errorf("%v:\n%s", err, got)
		}
		if err := record.Down(); err != nil {
			t.Error(err)
		}
	})
}
