package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestMachinedShowsTheVMAndTerminatesIt: registration is by the unit that
// install-microvm links for VMs that ask for it.
func TestMachinedShowsTheVMAndTerminatesIt(t *testing.T) {
	in(t, "container")
	name := install(t, spec("listed", func(s map[string]any) {
		s["registerWithMachined"] = true
		s["interfaces"] = []any{tap("vm-listed", 1)}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4"}
	}))
	sh(t, "systemctl start microvm@"+name)
	eventually(t, 20*time.Second, "machinectl --no-legend list | grep -E '^listed +vm +microvm'")
	index := sh(t, "cat /sys/class/net/vm-listed/ifindex")
	if got := sh(t, "busctl get-property org.freedesktop.machine1 /org/freedesktop/machine1/machine/listed org.freedesktop.machine1.Machine NetworkInterfaces"); got != "ai 1 "+index {
		t.Errorf("machined has the interfaces %q, not %s", got, index)
	}
	if got := sh(t, "machinectl show -p Unit -p Class listed | sort | tr '\\n' ' '"); got != "Class=vm Unit=microvm@listed.service" {
		t.Errorf("machined knows it as %q", got)
	}
	waitFor(t, name, "test guest is up")

	// Back after a crash, it is registered again.
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	sh(t, "kill -9 "+pid)
	eventually(t, 30*time.Second, "p=$(machinectl show -P Leader listed) && test $p != "+pid+" && test $p = $(systemctl show -P MainPID microvm@listed)")
	eventually(t, 90*time.Second, "test $("+logs(name)+" | grep -c 'test guest is up') = 2")

	sh(t, "machinectl terminate listed")
	eventually(t, 60*time.Second, "test $(systemctl show -P ActiveState microvm@listed) = inactive")
	if log := sh(t, logs(name)); !strings.Contains(log, "marker written and synced to /data") {
		t.Errorf("terminate did not stop the guest cleanly:\n%s", log)
	}
	eventually(t, 10*time.Second, "all=$(machinectl --no-legend list); [[ $all != *listed* ]]")
	nothingLeft(t, name)
}
