package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// scriptedGuest is a hypervisor whose guest reports and does nothing else: the program
// of a cloud-hypervisor package, because that one puts vsock on a Unix socket,
// which a script can reach. What it says last comes right behind the rest.
const scriptedGuest = `#!/bin/sh
for text in STATUS=booting STATUS=almost READY=1 STATUS=up; do
  printf '%s\n' "$text" | nc -N -U notify.vsock_28022 &
done
wait
exec sleep 1000
`

// scriptedSpec is a VM of the stand-in.
func scriptedSpec(t *testing.T, name string, edit func(map[string]any)) map[string]any {
	t.Helper()
	dir := t.TempDir()
	sh(t, "chown -R root:root "+dir+" && chmod 755 "+dir+" "+dir+"/.. && mkdir "+dir+"/bin")
	if err := os.WriteFile(dir+"/bin/cloud-hypervisor", []byte(scriptedGuest), 0o755); err != nil {
		t.Fatal(err)
	}
	return spec(name, func(s map[string]any) {
		delete(s, "cpu")
		s["hypervisor"] = "cloud-hypervisor"
		s["cloud-hypervisor"] = map[string]any{"package": dir}
		s["vsock"] = map[string]any{"cid": 77}
		s["socket"] = nil
		if edit != nil {
			edit(s)
		}
	})
}

func TestReadyIsNeverLostInManyStarts(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	name := install(t, scriptedSpec(t, "often", nil))
	for i := range rounds(15, 200) {
		if out, err := try("timeout 300 systemctl start microvm@" + name); err != nil {
			t.Fatalf("start %d: %v: %s\n%s", i, err, out, sh(t, logs(name)+" | tail -20"))
		}
		sh(t, "systemctl stop microvm@"+name)
	}
	nothingLeft(t, name)
}

func TestManyCyclesLeaveTheHostAsItWas(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	sh(t, "mkdir -p /srv/cycles")
	name := install(t, scriptedSpec(t, "cycles", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-cycles", 1)}
		s["shares"] = []any{map[string]any{"tag": "a", "source": "/srv/cycles", "proto": "virtiofs"}}
	}))
	cycle := func() {
		sh(t, "timeout 300 systemctl start microvm@"+name)
		sh(t, "systemctl stop microvm@"+name)
		nothingLeft(t, name)
	}
	cycle() // what systemd and the kernel keep after the first
	before := counts(t)
	for range rounds(8, 50) {
		cycle()
	}
	// Whoever asked the service manager last may not have been dropped yet.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if now := counts(t); slices.Equal(now[:3], before[:3]) && now[3] <= before[3] {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Errorf("interfaces, sockets, processes and descriptors were %v and are %v", before, counts(t))
}

// counts are what cycles could leave: interfaces, listening sockets, processes of
// ours and of virtiofsd, and descriptors of the service manager.
func counts(t *testing.T) []int {
	t.Helper()
	var out []int
	for _, what := range []string{"ls /sys/class/net", "ss -xlH", "ps -eo comm= | grep -E '^(microvm|virtiofsd)' || true", "ls /proc/1/fd"} {
		out = append(out, number(t, sh(t, "{ "+what+"; } | wc -l")))
	}
	return out
}

// pretendKVM lets a VM that needs KVM start where there is none: the stand-in
// has no use for it.
func pretendKVM(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/kvm"); err == nil {
		return
	}
	sh(t, "mknod -m 666 /dev/kvm c 1 3")
	t.Cleanup(func() { _, _ = try("rm -f /dev/kvm") })
}

func TestHelpersThatAreKilledAnywhereAreUndone(t *testing.T) {
	in(t, "container")
	const calls = "openat,openat2,mkdirat,renameat,renameat2,unlinkat,write,ioctl,sendto,chmod,fchmod,fchown,fchownat,lchown,symlinkat"
	name := install(t, spec("halfway", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-half1", 1), tap("vm-half2", 2), tap("vm-half3", 3)}
	}))
	for _, helper := range []string{"microvm-set-booted", "microvm-tap-interfaces"} {
		killed{name: name, helper: helper, calls: calls, left: leftHalfway}.anywhere(t)
	}
}

// leftHalfway prints what helpers of VM halfway may have left.
var leftHalfway = "ls /sys/class/net | grep -E '[mv]-half'; " + recordsOf("halfway")

// recordsOf prints what helpers of a VM have written down.
func recordsOf(vm string) string {
	return fmt.Sprintf("find /run/microvm -path '/run/microvm/%[1]s*'; find /var/lib/microvms/%[1]s -name '*booted*'", vm)
}

// TestAKilledMacvtapHelperIsUndone is for the VM host, for a container makes no
// device nodes. Each process takes long there, so that only those calls are tried
// that change anything.
func TestAKilledMacvtapHelperIsUndone(t *testing.T) {
	in(t, "vm")
	macvtap := onHalf(t)
	name := install(t, spec("halfway", func(s map[string]any) {
		s["interfaces"] = []any{macvtap("mv-half1", 1), macvtap("mv-half2", 2)}
	}))
	const calls = "mkdirat,renameat,unlinkat,write,sendto,fchmod,fchmodat,fchownat"
	killed{name: name, helper: "microvm-macvtap-interfaces", calls: calls, left: leftHalfway}.anywhere(t)
}

// onHalf makes an interface for macvtaps to stand on, and returns what makes one.
func onHalf(t *testing.T) func(id string, last int) map[string]any {
	t.Helper()
	sh(t, "ip link add half-a type veth peer name half-b && ip link set half-b up")
	t.Cleanup(func() { _, _ = try("ip link delete half-a") })
	return func(id string, last int) map[string]any {
		i := tap(id, last)
		i["type"], i["macvtap"] = "macvtap", map[string]any{"link": "half-a", "mode": "bridge"}
		return i
	}
}

// TestAMacvtapHasADescriptorForEachCPU does not wait for the guest, which two CPUs
// that are emulated twice boot very slowly.
func TestAMacvtapHasADescriptorForEachCPU(t *testing.T) {
	in(t, "vm")
	macvtap := onHalf(t)
	name := install(t, spec("mvqueues", func(s map[string]any) {
		s["interfaces"] = []any{macvtap("mv-queues", 1)}
		s["vcpu"] = 2
		s["qemu"] = map[string]any{"machine": "q35"}
	}))
	sh(t, "mkdir -p /run/systemd/system/microvm@mvqueues.service.d && printf '[Service]\\nEnvironment=MICROVM_STOP_TIMEOUT=6\\n' > /run/systemd/system/microvm@mvqueues.service.d/t.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r /run/systemd/system/microvm@mvqueues.service.d; systemctl daemon-reload") })
	sh(t, "systemctl start microvm@"+name)
	if got := sh(t, "ls -l /proc/$(systemctl show -P MainPID microvm@mvqueues)/fd | grep -c '/dev/tap[0-9]'"); got != "2" {
		t.Errorf("the hypervisor has %s descriptors of its macvtap, not one for each CPU", got)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}

// TestAKilledPCIHelperGivesTheDeviceBack is for the VM host, which has a card to
// take.
func TestAKilledPCIHelperGivesTheDeviceBack(t *testing.T) {
	in(t, "vm")
	address, _ := card(t)
	driver := "basename $(readlink /sys/bus/pci/devices/" + address + "/driver)"
	if got := sh(t, "modprobe vfio-pci; "+driver); got != "e1000e" {
		t.Fatalf("the card is on %s", got)
	}
	name := install(t, spec("halfcard", func(s map[string]any) {
		s["qemu"] = map[string]any{"machine": "q35"}
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
	}))
	const calls = "mkdirat,renameat,unlinkat,write,fchmod,fchmodat,fchownat"
	began := time.Now()
	killed{name: name, helper: "microvm-pci-devices", calls: calls,
		left: driver + " | grep -v e1000e; " + recordsOf(name) + "; grep -v null /sys/bus/pci/devices/" + address + "/driver_override; ls /dev/vfio | grep '[0-9]'"}.anywhere(t)
	t.Logf("all of it took %s", time.Since(began).Round(time.Second))
}

// killed is a helper that is killed before each of some system calls in turn, by
// strace; its counts are those of one call in one thread.
type killed struct {
	name, helper string
	calls        string
	// left prints what the helper may have left, nothing where all is well.
	left string
}

func (k killed) anywhere(t *testing.T) {
	t.Helper()
	sh(t, "/usr/lib/microvm/microvm-set-booted up "+k.name)
	for _, way := range []string{"up", "down"} {
		var places []string
		for _, call := range strings.Split(k.calls, ",") {
			n := 1
			for ; k.at(t, way, call, n); n++ {
				if n == 200 {
					t.Fatalf("%s %s is killed at %s again and again", k.helper, way, call)
				}
			}
			if n > 1 {
				places = append(places, fmt.Sprintf("%s %d", call, n-1))
			}
		}
		// A record is written with one file, and removed with one.
		if len(places) == 0 {
			t.Errorf("%s %s: no place to die was reached", k.helper, way)
		}
		t.Logf("%s %s: killed at %s", k.helper, way, strings.Join(places, ", "))
	}
	sh(t, "/usr/lib/microvm/microvm-set-booted down "+k.name)
}

// at kills the helper before the nth of one call, and cleans up as the unit's
// ExecStopPost= does. It reports whether the helper got that far.
func (k killed) at(t *testing.T, way, call string, n int) bool {
	t.Helper()
	booted := "/usr/lib/microvm/microvm-set-booted"
	program := "/usr/lib/microvm/" + k.helper
	prepare, after := "true", program+" down "+k.name
	switch {
	case program == booted:
		// The other helpers read what it makes; the test checks that it is removed.
		prepare = fmt.Sprintf("%s %s %s", booted, map[string]string{"up": "down", "down": "up"}[way], k.name)
	case way == "down":
		prepare = program + " up " + k.name
	}
	left := k.left
	if program != booted {
		// What is pinned is for all of them.
		left = fmt.Sprintf("{ %s; } | grep -vxE '/run/microvm/%[2]s(/booted)?|/var/lib/microvms/%[2]s/booted'", left, k.name)
	}
	out := sh(t, fmt.Sprintf(`{ %[1]s; } > /dev/null 2>&1 || echo was not prepared
		# The shell tells of whoever is killed.
		code=$(exec 2> /dev/null; strace -f -qq -o /dev/null -e trace=%[2]s -e inject=%[2]s:signal=KILL:when=%[3]d %[4]s %[5]s %[6]s > /dev/null; echo $?)
		%[7]s
		{ %[8]s; } || true
		echo code $code`, prepare, call, n, program, way, k.name, after, left))
	found, code, _ := strings.Cut("\n"+out, "\ncode ")
	if found != "" {
		t.Fatalf("%s %s, killed before call %d of %s, leaves%s", k.helper, way, n, call, found)
	}
	if code != "0" && code != "137" {
		t.Fatalf("%s %s, to be killed before call %d of %s, ended with code %s", k.helper, way, n, call, code)
	}
	return code == "137"
}
