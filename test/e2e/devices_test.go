package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// card is the PCI address of the VM host's spare e1000e, wire the interface of
// the host that is on the same wire.
func card(t *testing.T) (address, wire string) {
	t.Helper()
	// The VM before may be giving the card back just now, and udev renames what
	// comes.
	eventually(t, time.Minute, "udevadm settle && grep -q 52:54:00:00:00:01 /sys/bus/pci/devices/*/net/*/address")
	address = sh(t, "basename $(dirname $(dirname $(grep -l 52:54:00:00:00:01 /sys/bus/pci/devices/*/net/*/address | head -1 | xargs dirname)))")
	wire = sh(t, "basename $(dirname $(grep -l 52:54:00:00:00:02 /sys/class/net/*/address))")
	return address, wire
}

// everything is a VM with one of each.
func everything(address, wire string) map[string]any {
	return spec("all", func(s map[string]any) {
		s["interfaces"] = []any{
			tap("vm-all", 1),
			map[string]any{"type": "macvtap", "id": "mv-all", "mac": "02:00:00:00:00:02", "macvtap": map[string]any{"link": wire, "mode": "bridge"}},
		}
		s["shares"] = []any{
			map[string]any{"tag": "rw", "source": "/srv/rw", "proto": "virtiofs"},
			map[string]any{"tag": "ro", "source": "/srv/ro", "proto": "virtiofs", "readOnly": true},
		}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
		s["vsock"] = map[string]any{"cid": 42}
		s["kernelParams"] = []string{
			"mvguest.mount=data:/data:ext4", "mvguest.mount=rw:/rw:virtiofs", "mvguest.mount=ro:/ro:virtiofs",
			"mvguest.read=/ro/hello", "mvguest.write=/rw/reply", "mvguest.write=/ro/reply",
			"mvguest.ip=10.77.0.2/24,02:00:00:00:00:01", "mvguest.ip=10.81.0.2/24,02:00:00:00:00:02", "mvguest.ip=10.80.0.2/24,52:54:00:00:00:01",
			"mvguest.ping=10.81.0.1", "mvguest.ping=10.80.0.1", "mvguest.notify-count=100",
		}
	})
}

func TestOneVMWithEverythingStartsAndLeavesTheHostAsItWas(t *testing.T) {
	in(t, "vm")
	address, wire := card(t)
	driver := "basename $(readlink /sys/bus/pci/devices/" + address + "/driver)"
	if got := sh(t, driver); got != "e1000e" {
		t.Fatalf("the card is on %s", got)
	}
	sh(t, "mkdir -p /srv/rw /srv/ro && echo hello > /srv/ro/hello && chown -R microvm:kvm /srv/rw")
	sh(t, fmt.Sprintf("ip link set %[1]s up && ip address add 10.80.0.1/24 dev %[1]s && ip netns add peer && ip link add peer0 link %[1]s type macvlan mode bridge && ip link set peer0 netns peer && ip -n peer link set peer0 up && ip -n peer address add 10.81.0.1/24 dev peer0", wire))
	t.Cleanup(func() { _, _ = try("ip netns delete peer; ip address flush dev " + wire) })
	before := hostState(t)
	name := install(t, everything(address, wire))
	if out, err := try("systemctl start microvm@" + name); err != nil {
		log, _ := try(logs(name) + " | tail -40")
		t.Fatalf("%s\n%s", out, log)
	}
	if got := sh(t, "systemctl show -P StatusText microvm@all"); got != "test guest is up" {
		t.Errorf("the unit's status is %q, not the guest's word", got)
	}
	if got := sh(t, driver); got != "vfio-pci" {
		t.Errorf("while the VM runs the card is on %s", got)
	}
	for _, want := range []string{`read /ro/hello: "hello\n"`, "write /rw/reply: (<nil>)", "write /ro/reply: (open", "ping 10.81.0.1 answered", "ping 10.80.0.1 answered"} {
		waitFor(t, name, want)
	}
	if got := sh(t, "cat /srv/rw/reply; ls /srv/ro"); got != "from the guest\nhello" {
		t.Errorf("the shares hold %q", got)
	}
	sh(t, "ip address add 10.77.0.1/24 dev vm-all && ping -c 1 -W 10 10.77.0.2")
	t.Run("notifications", func(t *testing.T) { notificationsCostLittle(t, name, bookkeepingLimit(t, processCost(t))) })
	restartCostsLittle(t, name)
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	eventually(t, 10*time.Second, "test $("+driver+") = e1000e")
	eventually(t, 10*time.Second, "no_process virtiofsd && no_link mv-all && no_link vm-all")
	if after := hostState(t); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// notificationsCostLittle reads what 100 notifications cost the guest: beyond the
// connection less than a millisecond each, where bookkeeping may cost half a
// second; no machine that is measured makes it more than 50 ms.
func notificationsCostLittle(t *testing.T, name string, bookkeeping time.Duration) {
	t.Helper()
	text := sh(t, logs(name)+" | grep -o 'notify median connect=.*' | tail -n 1")
	var connect, rest, n int
	if _, err := fmt.Sscanf(text, "notify median connect=%dus rest=%dus of %d", &connect, &rest, &n); err != nil || n != 100 {
		t.Fatalf("the guest says %q: %v", text, err)
	}
	const most = 50 * time.Millisecond
	limit := bookkeeping / 500
	if limit > time.Millisecond {
		limit = min(2*limit, most)
	}
	if took := time.Duration(rest) * time.Microsecond; took > limit {
		t.Errorf("a notification costs the guest %s besides %d µs for the connection, more than %s", took, connect, limit)
	}
	t.Logf("%s", text)
}

// hostState is what a VM must not change for longer than it runs.
func hostState(t *testing.T) string {
	t.Helper()
	return sh(t, "ls /sys/class/net | sort | tr '\\n' ' '; ls /run/microvm; ls /dev/vfio 2>/dev/null || true; find /var/lib/microvms -type s; pgrep -c virtiofsd || true")
}

func TestAGuestThatIsNeverReadyFailsTheStartAndSaysHowFarItGot(t *testing.T) {
	in(t, "vm")
	guest := func(words ...string) map[string]any {
		return spec("never", func(s map[string]any) {
			s["vsock"] = map[string]any{"cid": 43}
			s["kernelParams"] = words
		})
	}
	// It gets as much time as one that becomes ready takes here, and more.
	name := install(t, guest())
	began := time.Now()
	sh(t, "systemctl start microvm@"+name)
	limit := max(30, int(2*time.Since(began)/time.Second))
	sh(t, "systemctl stop microvm@"+name)
	sh(t, "install-microvm -p "+build(t, guest("mvguest.never-ready"))+" "+name)
	dropIn(t, name, fmt.Sprintf("[Service]\\nTimeoutStartSec=%d\\n", limit))
	// One that goes on to report has longer.
	sh(t, "install-microvm -p "+build(t, guest(fmt.Sprintf("mvguest.notify-count=%d", limit/5+4), "mvguest.notify-pause=5s"))+" "+name)
	began = time.Now()
	sh(t, "systemctl start microvm@"+name)
	if took := time.Since(began); took < time.Duration(limit)*time.Second {
		t.Errorf("it was ready after %s, which is no longer than its %d s", took, limit)
	}
	sh(t, "systemctl stop microvm@"+name)
	sh(t, "install-microvm -p "+build(t, guest("mvguest.never-ready"))+" "+name)
	want(t, 6, []string{"never did not start: the VM was not ready within TimeoutStartSec= of microvm@never, and systemd will try again", "test guest will never be ready"}, "start", name)
	if log := sh(t, logs(name)); !strings.Contains(log, "test guest will never be ready") {
		t.Errorf("the log does not say how far the guest got:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}
