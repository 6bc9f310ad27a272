package e2e

import (
	"strings"
	"testing"
	"time"
)

// What VMs that come from microvm.nix have in them.

// TestAReplacedRunRunsAsTheVMsUser, also where it ends in the one that it took the
// place of; the guest is asked to go down as the plan says.
func TestAReplacedRunRunsAsTheVMsUser(t *testing.T) {
	in(t, "container")
	pkg := build(t, spec("wrapped", nil))
	sh(t, "cd "+pkg+`/bin && chmod 755 . && mv microvm-run .microvm-run-wrapped && cat > microvm-run <<'X' && chmod 755 microvm-run
#!/bin/sh
id -un > /var/lib/microvms/wrapped/wrapped-by
exec "$(dirname "$(readlink -f "$0")")/.microvm-run-wrapped"
X`)
	sh(t, "install-microvm -p "+pkg+" wrapped")
	cleanUp(t, "wrapped")
	sh(t, "systemctl start microvm@wrapped")
	waitFor(t, "wrapped", "test guest is up")
	if got := sh(t, "cat /var/lib/microvms/wrapped/wrapped-by"); got != "microvm" {
		t.Errorf("it ran as %s", got)
	}
	sh(t, "systemctl stop microvm@wrapped")
	if got := sh(t, logs("wrapped")); !strings.Contains(got, "the guest goes down") {
		t.Errorf("the guest was not asked to go down: %s", got)
	}
	nothingLeft(t, "wrapped")
	// A changed copy that a shell reads from a pipe.
	file := strings.TrimSuffix(pkg, "runner") + "spec.json"
	sh(t, "mkdir -p /tmp/copy && cd /tmp/copy && microvm build "+file+" -o built --at /tmp/copy/built && "+
		"sed 's/^exec/echo a changed copy; exec/' built/bin/microvm-run > changed && systemd-run -q -p WorkingDirectory=/tmp/copy --unit changed-copy bash -c 'bash <(cat changed)'")
	t.Cleanup(func() { _, _ = try("systemctl stop changed-copy; rm -rf /tmp/copy") })
	eventually(t, 90*time.Second, "journalctl -q -o cat -u changed-copy | grep 'test guest is up'")
	sh(t, "journalctl -q -o cat -u changed-copy | grep 'a changed copy'")
}

// TestPreStartIsTheFirstStep of a unit's start, and what it sets is QEMU's.
func TestPreStartIsTheFirstStep(t *testing.T) {
	in(t, "container")
	name := install(t, spec("first", func(s map[string]any) {
		s["preStart"] = "[[ ! -e data.img ]] && date > before; umask 0077; ulimit -n 5000; export FROM_PRE_START=yes; sleep 25"
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 16, "label": "data"}}
	}))
	sh(t, "mkdir -p /run/systemd/system/microvm@first.service.d && printf '[Service]\\nTimeoutStartSec=12\\n' > /run/systemd/system/microvm@first.service.d/60-test.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r /run/systemd/system/microvm@first.service.d; systemctl daemon-reload") })
	// preStart takes longer than the unit's time, and is waited for.
	sh(t, "systemctl start microvm@"+name)
	sh(t, "test -e /var/lib/microvms/first/before")
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	for command, want := range map[string]string{
		"grep 'Max open files' /proc/" + pid + "/limits | awk '{ print $4, $5 }'": "5000 5000",
		"tr '\\0' '\\n' < /proc/" + pid + "/environ | grep FROM_PRE_START":        "FROM_PRE_START=yes",
		"stat -c %a /var/lib/microvms/first/data.img":                             "600",
		"grep Umask /proc/" + pid + "/status | awk '{ print $2 }'":                "0077",
		"readlink /proc/" + pid + "/cwd":                                          "/var/lib/microvms/first",
	} {
		if got := sh(t, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	// Nothing of ours is left in it; what is its own shows that the list is whole.
	for command, c := range map[string]struct{ own, ours string }{
		"ls -l /proc/" + pid + "/fd":                 {" -> ", "microvm-run-wrapper"},
		"tr '\\0' '\\n' < /proc/" + pid + "/environ": {"FROM_PRE_START=", "MICROVM_"},
	} {
		if got := sh(t, command); !strings.Contains(got, c.own) || strings.Contains(got, c.ours) {
			t.Errorf("%s has no %q, or has %q:\n%s", command, c.own, c.ours, got)
		}
	}
	eventually(t, 10*time.Second, "no_process -f [m]icrovm-run-wrapper")
}

// TestWhatQEMUsSandboxHasToLeave runs the script of a tap in extraArgs, by ours and
// by a sandbox of the user's own.
func TestWhatQEMUsSandboxHasToLeave(t *testing.T) {
	in(t, "container")
	sh(t, "ip tuntap add vm-script mode tap user microvm vnet_hdr; printf '#!/bin/sh\\necho \"$1\" > up\\n' > /usr/local/bin/vm-script-up; chmod 755 /usr/local/bin/vm-script-up")
	t.Cleanup(func() { _, _ = try("ip link delete vm-script; rm -f /usr/local/bin/vm-script-up") })
	for vm, own := range map[string][]string{"script-ours": nil, "script-own": {"-sandbox", "on,spawn=allow"}} {
		args := append([]string{"-netdev", "tap,id=x,ifname=vm-script,script=/usr/local/bin/vm-script-up,downscript=no", "-device", "virtio-net-device,netdev=x"}, own...)
		name := install(t, spec(vm, func(s map[string]any) { s["qemu"] = map[string]any{"extraArgs": args} }))
		sh(t, "systemctl start microvm@"+name)
		waitFor(t, name, "test guest is up")
		if got := sh(t, "cat /var/lib/microvms/"+vm+"/up"); got != "vm-script" {
			t.Errorf("with %q the script got %q", own, got)
		}
		sh(t, "systemctl stop microvm@"+name)
	}
}

// TestATapOfSeveralCPUsNeedsNoPCI: machine microvm has virtio-mmio, as in
// microvm.nix, and the guest one of the tap's queues.
func TestATapOfSeveralCPUsNeedsNoPCI(t *testing.T) {
	in(t, "container")
	name := install(t, spec("mmio", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-mmio", 1)}
		s["vcpu"] = 2
		s["kernelParams"] = []string{"mvguest.ip=10.77.9.2/24"}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "mac=02:00:00:00:00:01 queues=1")
	if got := sh(t, "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID microvm@mmio)/cmdline"); !strings.Contains(got, "pcie=off") || !strings.Contains(got, "virtio-net-device,") || !strings.Contains(got, "queues=2") {
		t.Errorf("QEMU runs as\n%s", got)
	}
	sh(t, "ip address add 10.77.9.1/24 dev vm-mmio && ping -c 3 -i 0.2 -W 20 10.77.9.2")
}
