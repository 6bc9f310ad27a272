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
	if err := os.WriteFile(dir+"/bin/cloud-hypervisor", []byte(scriptedGuest), 0o755); err != nil { //nolint:gosec // a program
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

func TestReadyIsNeverLostIn200Starts(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	name := install(t, scriptedSpec(t, "often", nil))
	for i := range 200 {
		if out, err := try("timeout 30 systemctl start microvm@" + name); err != nil {
			t.Fatalf("start %d: %v: %s\n%s", i, err, out, sh(t, logs(name)+" | tail -20"))
		}
		sh(t, "systemctl stop microvm@"+name)
	}
	nothingLeft(t, name)
}

func TestFiftyCyclesLeaveTheHostAsItWas(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	sh(t, "mkdir -p /srv/cycles")
	name := install(t, scriptedSpec(t, "cycles", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-cycles", 1)}
		s["shares"] = []any{map[string]any{"tag": "a", "source": "/srv/cycles", "proto": "virtiofs"}}
	}))
	cycle := func() {
		sh(t, "timeout 30 systemctl start microvm@"+name)
		sh(t, "systemctl stop microvm@"+name)
		nothingLeft(t, name)
	}
	cycle() // what systemd and the kernel keep after the first
	before := counts(t)
	for range 50 {
		cycle()
	}
	// Whoever asked the service manager last may not have been dropped yet.
	for range 20 {
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
	name := install(t, spec("halfway", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-half1", 1), tap("vm-half2", 2), tap("vm-half3", 3)}
	}))
	const calls = "openat,openat2,mkdirat,renameat,renameat2,unlinkat,write,ioctl,sendto,fchown,symlinkat"
	for _, helper := range []string{"microvm-set-booted", "microvm-tap-interfaces"} {
		program := "/usr/lib/microvm/" + helper
		for _, way := range []string{"up", "down"} {
			killed := 0
			for n := 1; n < 1000; n++ {
				sh(t, "/usr/lib/microvm/microvm-set-booted up "+name)
				if way == "down" {
					sh(t, program+" up "+name)
				}
				_, err := try(fmt.Sprintf("strace -f -qq -o /dev/null -e trace=%[1]s -e inject=%[1]s:signal=KILL:when=%[2]d %[3]s %[4]s %[5]s", calls, n, program, way, name))
				// As the unit's ExecStopPost= does.
				sh(t, program+" down "+name)
				sh(t, "/usr/lib/microvm/microvm-set-booted down "+name)
				if out := sh(t, "ls /sys/class/net; ls -A /run/microvm; find /var/lib/microvms/"+name+" -name booted"); strings.Contains(out, "half") || strings.Contains(out, "booted") {
					t.Fatalf("%s %s, killed at call %d, leaves\n%s", helper, way, n, out)
				}
				if err == nil {
					break
				}
				killed++
			}
			if killed < 3 {
				t.Errorf("%s %s: only %d places to die were reached", helper, way, killed)
			}
			t.Logf("%s %s: killed at %d calls", helper, way, killed)
		}
	}
}
