package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// failing has the tap helper of a VM fail as often as a file says, from now on.
func failing(t *testing.T, name string) (times func(string)) {
	t.Helper()
	count := "/run/fails-" + name
	sh(t, "printf '#!/bin/sh\\nread n < "+count+"; echo $((n - 1)) > "+count+"; test $n -le 0\\n' > /run/script-"+name+"; chmod 755 /run/script-"+name)
	sh(t, "mkdir -p /run/systemd/system/microvm-tap-interfaces@"+name+".service.d && printf '[Service]\\nEnvironment=MICROVM_TAP_SCRIPT=/run/script-"+name+"\\n' > /run/systemd/system/microvm-tap-interfaces@"+name+".service.d/50-script.conf && systemctl daemon-reload")
	return func(n string) { sh(t, "echo "+n+" > "+count) }
}

func TestAHelperThatFailsIsTriedAgainWithItsVM(t *testing.T) {
	in(t, "container")
	name := install(t, spec("retry", func(s map[string]any) { s["interfaces"] = []any{tap("vm-retry", 1)} }))
	times := failing(t, name)
	times("8")
	// Six starts within ten seconds would be a helper's own limit.
	want(t, 1, []string{"run tap script"}, "start", name)
	eventually(t, 90*time.Second, "systemctl is-active microvm@"+name)
	sh(t, "ip link show vm-retry && test $(cat /run/fails-"+name+") = -1")

	// One that fails while its VM is being restarted.
	times("1")
	if out, err := try("microvm restart " + name); err == nil {
		t.Errorf("the restart, whose helper failed, is said to have worked: %s", out)
	}
	eventually(t, 30*time.Second, "systemctl is-active microvm@"+name)

	// It takes the VM with it, as what is required does.
	sh(t, "systemctl stop microvm-tap-interfaces@"+name)
	if got := sh(t, "systemctl show -P ActiveState microvm@"+name); got != "inactive" {
		t.Errorf("the VM is %s without its tap", got)
	}
	nothingLeft(t, name)
}

// TestAKilledHypervisorIsSaidToHaveFailed, also where its VM was up for long, so that
// its restart counts as the first again.
func TestAKilledHypervisorIsSaidToHaveFailed(t *testing.T) {
	in(t, "container")
	name := install(t, spec("shot", nil))
	sh(t, "systemctl start microvm@"+name)
	for kills, up := range []time.Duration{0, 11 * time.Second} { // goodRun is 10 s
		time.Sleep(up)
		sh(t, "kill -9 $(systemctl show -P MainPID microvm@"+name+")")
		eventually(t, 30*time.Second, fmt.Sprintf("test $(journalctl -q -o cat -u microvm@%[1]s | grep -c 'Started microvm@') = %[2]d && systemctl is-active microvm@%[1]s", name, kills+2))
		if got := sh(t, "systemctl show -P NRestarts microvm@"+name); got != "1" {
			t.Errorf("after %s it is restart %s in a row", up, got)
		}
	}
	log := sh(t, "journalctl -q --no-pager -o cat -u microvm@"+name)
	if strings.Count(log, "Failed with result 'signal'") != 2 || strings.Contains(log, "Deactivated successfully") {
		t.Errorf("the journal does not say that it failed:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	if got := sh(t, "systemctl list-units --all --no-legend 'microvm-run-wrapper-settle-*'"); got != "" {
		t.Errorf("units are left: %s", got)
	}
}

// TestAVMOfAnEarlierVersionIsStoppedAsWhatItWas: its link lay in its directory only.
func TestAVMOfAnEarlierVersionIsStoppedAsWhatItWas(t *testing.T) {
	in(t, "container")
	name := install(t, spec("earlier", func(s map[string]any) { s["interfaces"] = []any{tap("vm-earlier", 1)} }))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	sh(t, "rm /run/microvm/earlier/booted && test -L /var/lib/microvms/earlier/booted")
	// One with another control socket, by which the guest could not be asked.
	sh(t, "install-microvm -p "+build(t, spec("earlier", func(s map[string]any) { s["socket"] = "other.sock" }))+" earlier")
	sh(t, "microvm list | grep -E 'earlier +active +qemu +stale'")
	want(t, 0, []string{"earlier: is down"}, "stop", name)
	if log := sh(t, "journalctl -q --no-pager -o cat -u microvm@earlier"); !strings.Contains(log, "the guest goes down") || strings.Contains(log, "SIGTERM") {
		t.Errorf("its guest was not asked:\n%s", log)
	}
	nothingLeft(t, name)
	sh(t, "no_link vm-earlier")
}

// TestAHostWithoutUserNamespacesIsMended: systemd cannot start the hypervisor then,
// and that is the host's to mend, not the package's.
func TestAHostWithoutUserNamespacesIsMended(t *testing.T) {
	in(t, "vm")
	name := install(t, spec("nouserns", nil))
	before := sh(t, "sysctl -n user.max_user_namespaces")
	t.Cleanup(func() { sh(t, "sysctl -q user.max_user_namespaces="+before) })
	sh(t, "sysctl -q user.max_user_namespaces=0")
	if out, err := try("microvm start " + name); err == nil {
		t.Fatalf("it started without a user namespace: %s", out)
	}
	eventually(t, time.Minute, "test $(systemctl show -P NRestarts microvm@"+name+") -ge 2")
	sh(t, "sysctl -q user.max_user_namespaces="+before)
	eventually(t, 2*time.Minute, "systemctl is-active microvm@"+name)
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}
