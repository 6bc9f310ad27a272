package e2e

import (
	"strings"
	"testing"
)

// debian is where the VM host has the guest that examples/debian/build made.
const debian = "/payload/debian"

// TestDebianGuestBootsReportsAndLetsItsOwnerIn is the README's second example:
// a real Debian with its own systemd, which knows nothing of us. It has no control
// socket here, so that it is stopped through its own sshd: what other guests stand
// in for elsewhere, this one shows.
func TestDebianGuestBootsReportsAndLetsItsOwnerIn(t *testing.T) {
	in(t, "vm")
	const name = "debian"
	file := t.TempDir() + "/debian.json"
	sh(t, `sed -E 's|"mem": 512,|&"socket": null,|; s|"[^"]*/(vmlinuz\|initrd.img\|root.erofs\|authorized_keys)"|"`+debian+`/\1"|' `+debian+"/debian.json >"+file)
	sh(t, "install -m 600 "+debian+"/key /root/debian-key")
	t.Cleanup(func() { _, _ = try("rm /root/debian-key") })
	cleanUp(t, name)
	want(t, 0, []string{"created in"}, "create", name, "-s", file)
	if out := want(t, 0, nil, "show", name); !strings.Contains(out, "guest: vsock.cid is set") {
		t.Errorf("its readiness is not the guest's own:\n%s", out)
	} else if !strings.Contains(out, "asked to power off over ssh on vsock") {
		t.Errorf("it is not shut down over ssh:\n%s", out)
	}
	// Emulated twice over, it boots some twenty times slower than elsewhere.
	const slow = "/run/systemd/system/microvm@debian.service.d"
	sh(t, "mkdir -p "+slow+" && printf '[Service]\\nTimeoutStartSec=1800\\nTimeoutStopSec=900\\nEnvironment=MICROVM_STOP_TIMEOUT=900\\n' > "+slow+"/slow.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r " + slow + "; systemctl daemon-reload") })
	// Its systemd says READY=1 when it has started everything.
	want(t, 0, []string{"debian: is up"}, "start", name)
	t.Logf("\n%s", want(t, 0, []string{"guest until READY"}, "analyze", name))
	ssh := func(words ...string) string {
		return want(t, 0, nil, append([]string{"ssh", name, "--", "-i", "/root/debian-key"}, words...)...)
	}
	if got := ssh("cat /etc/debian_version; findmnt -no FSTYPE,SOURCE /; cat /proc/1/comm"); !strings.Contains(got, "overlay") || !strings.Contains(got, "systemd") {
		t.Errorf("the guest is %q", got)
	}
	t.Logf("the guest says: %s", ssh("systemd-analyze; systemctl --failed --no-legend --plain"))
	if got := ssh("systemctl --failed --no-legend --plain"); got != "" {
		t.Errorf("units failed in the guest:\n%s", got)
	}
	if _, code := microvm(t, "ssh", name, "-i", "/root/debian-key", "exit 42"); code != 42 {
		t.Errorf("ssh's exit code is %d, want that of the command in the guest, 42", code)
	}
	other := t.TempDir() + "/other"
	sh(t, "ssh-keygen -q -t ed25519 -N '' -f "+other)
	if out, code := microvm(t, "ssh", name, "-i", other, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "true"); code != 255 || !strings.Contains(out, "Permission denied") {
		t.Errorf("a key that is not the owner's gets in, or not for that: %d, %s", code, out)
	}
	// It ends by SIGPIPE when the guest says more than is read.
	if got := sh(t, "{ echo uptime | microvm vsock-proxy "+name+" 22 || test $? = 141; } | head -c 7"); got != "SSH-2.0" {
		t.Errorf("through the proxy the guest says %q", got)
	}
	if out := want(t, 1, nil, "vsock-proxy", name, "23"); !strings.Contains(out, "nothing listens there") {
		t.Errorf("of a port that nobody listens on is said: %s", out)
	}
	ssh("echo kept > /root/kept && sync")
	want(t, 0, []string{"debian: is down"}, "stop", name)
	log := sh(t, logs(name))
	if !strings.Contains(log, "microvm@debian.service: Deactivated successfully") || strings.Contains(log, "SIGTERM") {
		t.Errorf("the guest did not go down by itself:\n%s", log)
	}
	t.Logf("the stop:\n%s", sh(t, logs(name)+" | grep '^microvm-run-wrapper: ' | tail -4"))
	for _, want := range []string{"asking the guest to go down by ssh-over-vsock", "the guest runs \"systemctl poweroff"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
	// The image is read-only; the volume has what the guest wrote.
	if got := sh(t, "debugfs -R 'cat /upper/root/kept' /var/lib/microvms/debian/state.img 2>/dev/null"); got != "kept" {
		t.Errorf("the volume has %q", got)
	}
	want(t, 1, []string{"microvm start debian"}, "ssh", name)
	nothingLeft(t, name)
}
