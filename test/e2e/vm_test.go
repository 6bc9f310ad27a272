package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const assets = "/usr/lib/microvm-test"

// spec is a VM of the test guest; edit changes it. Under emulation in the
// container, by KVM in the VM host.
func spec(name string, edit func(map[string]any)) map[string]any {
	s := map[string]any{
		"name": name, "mem": 256,
		"kernel": assets + "/vmlinuz", "initrdPath": assets + "/initrd",
		"kernelParams": []string{},
	}
	if host == "container" {
		s["cpu"] = "max"
	}
	if edit != nil {
		edit(s)
	}
	// Each character on the serial port costs a nested guest dearly.
	if words, ok := s["kernelParams"].([]string); ok {
		s["kernelParams"] = append(words, "quiet")
	}
	return s
}

func params(words ...string) func(map[string]any) {
	return func(s map[string]any) { s["kernelParams"] = words }
}

func tap(id string, last int) map[string]any {
	return map[string]any{"type": "tap", "id": id, "mac": fmt.Sprintf("02:00:00:00:00:%02x", last)}
}

// build compiles a spec and returns the package's directory.
func build(t testing.TB, s map[string]any) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "spec.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "runner")
	sh(t, fmt.Sprintf("chown -R root:root %[1]s && chmod 755 %[1]s && microvm build %[2]s -o %[3]s", dir, file, out))
	return out
}

// install builds and installs a VM, and removes all of it when the test ends.
func install(t testing.TB, s map[string]any) string {
	t.Helper()
	name, _ := s["name"].(string)
	pkg := build(t, s)
	sh(t, "install-microvm -p "+pkg+" "+name)
	cleanUp(t, name)
	return name
}

func cleanUp(t testing.TB, name string) {
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := try("systemctl status --no-pager --lines 0 'microvm*@" + name + "'; " + logs(name) + " -o short-precise | tail -60")
			t.Log(out)
		}
		_, _ = try("systemctl stop microvm@" + name + "; systemctl stop 'microvm-*@" + name + "'; systemctl reset-failed 'microvm*@" + name + "'")
		_, _ = try("rm -rf /var/lib/microvms/" + name + " /var/lib/microvms/.origin/" + name + " /etc/systemd/system.control/microvm*@" + name + ".service.*; systemctl daemon-reload")
	})
}

// logs is a command that prints what the units of a VM logged.
func logs(name string) string {
	out := "journalctl -q --no-pager -o cat"
	for _, unit := range []string{"microvm", "microvm-set-booted", "microvm-tap-interfaces", "microvm-macvtap-interfaces", "microvm-pci-devices", "microvm-virtiofsd", "microvm-machined"} {
		out += " -u " + unit + "@" + name
	}
	return out
}

// waitFor waits until the VM's unit has logged text.
func waitFor(t testing.TB, name, text string) {
	t.Helper()
	eventually(t, 90*time.Second, fmt.Sprintf("journalctl -q --no-pager -o cat -u microvm@%s | grep -F -- %q", name, text))
}

// nothingLeft checks that a stopped VM has left nothing.
func nothingLeft(t testing.TB, name string) {
	t.Helper()
	// systemctl stop waits for the VM's own unit; its helpers follow.
	eventually(t, 30*time.Second, "test ! -e /run/microvm/"+name+" -a ! -L /var/lib/microvms/"+name+"/booted")
	if out := sh(t, "find /var/lib/microvms/"+name+" -type s -o -name '*.lock' -o -name .lkvm -o -name 'firecracker*.json'"); out != "" {
		t.Errorf("what the hypervisor made is still there: %s", out)
	}
	// The last helper has undone what it did, and ends.
	eventually(t, 30*time.Second, "no_process -f '[m]icrovm@"+name+"|lib/microvm/[m]icrovm-'")
}

func TestVMStartsIsReachableKeepsItsDataAndStopsCleanly(t *testing.T) {
	in(t, "container")
	name := install(t, spec("life", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-life", 1)}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.ip=10.77.1.2/24", "mvguest.mount=data:/data:ext4"}
	}))
	sh(t, "systemctl start microvm@"+name)
	if got := sh(t, "systemctl is-active microvm@"+name); got != "active" {
		t.Errorf("after start the unit is %s", got)
	}
	if got := sh(t, "systemctl status --no-pager --lines 0 microvm@"+name); !strings.Contains(got, "MicroVM life") {
		t.Errorf("systemctl status does not name the VM: %s", got)
	}
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	if got := sh(t, "tr '\\0' '\\n' < /proc/"+pid+"/cmdline | head -1"); got != "microvm@life" {
		t.Errorf("argv[0] is %q", got)
	}
	if got := sh(t, "stat -c %U /proc/"+pid); got != "microvm" {
		t.Errorf("the hypervisor runs as %s", got)
	}
	if got := sh(t, "grep -E 'CapEff|CapPrm|CapAmb' /proc/"+pid+"/status | tr -d '\\n\\t'"); !regexp.MustCompile(`^(Cap[A-Z][a-z]+:0+)+$`).MatchString(got) {
		t.Errorf("the hypervisor has capabilities: %s", got)
	}
	if got := sh(t, "cat /proc/"+pid+"/status | grep -P 'NoNewPrivs:\\t1' | wc -l"); got != "1" {
		t.Error("the hypervisor can gain privileges")
	}
	eventually(t, 10*time.Second, "no_process -f [m]icrovm-run-wrapper")
	if out, err := try("no_process -f 'lib/microvm/[m]icrovm'"); err != nil {
		t.Errorf("while a VM runs, processes of ours stay: %s", out)
	}
	waitFor(t, name, "test guest is up")
	sh(t, "ip address add 10.77.1.1/24 dev vm-life && ping -c 1 -W 5 10.77.1.2")
	if out := sh(t, "nsenter -t "+pid+" -m ls /var/lib/microvms"); out != "life" {
		t.Errorf("the VM sees more than its own state directory: %s", out)
	}
	sh(t, "systemctl stop microvm@"+name)
	// The unit may be unloaded by now, and its properties with it.
	if log := sh(t, logs(name)); !strings.Contains(log, "microvm@life.service: Deactivated successfully") {
		t.Errorf("the hypervisor did not exit with 0:\n%s", log)
	}
	nothingLeft(t, name)
	sh(t, "no_link vm-life")
	if got := sh(t, "debugfs -R 'cat /shutdown-marker' /var/lib/microvms/life/data.img 2>/dev/null"); !strings.Contains(got, "went down") {
		t.Errorf("the guest's marker is %q", got)
	}
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "found marker on /data")
}

func TestTwoVMsOnABridgeReachEachOther(t *testing.T) {
	in(t, "container")
	sh(t, "ip link add br-test type bridge && ip link set br-test up && printf '#!/bin/sh\\nip link set $id master br-test\\n' > /run/join && chmod +x /run/join")
	sh(t, "mkdir -p /run/systemd/system/microvm-tap-interfaces@.service.d && printf '[Service]\\nEnvironment=MICROVM_TAP_SCRIPT=/run/join\\n' > /run/systemd/system/microvm-tap-interfaces@.service.d/join.conf && systemctl daemon-reload")
	t.Cleanup(func() {
		_, _ = try("ip link delete br-test; rm -r /run/systemd/system/microvm-tap-interfaces@.service.d; systemctl daemon-reload")
	})
	a := install(t, spec("bridge-a", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-bra", 0xa)}
		s["kernelParams"] = []string{"mvguest.ip=10.78.0.1/24"}
	}))
	b := install(t, spec("bridge-b", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-brb", 0xb)}
		s["kernelParams"] = []string{"mvguest.ip=10.78.0.2/24", "mvguest.ping=10.78.0.1"}
	}))
	sh(t, "systemctl start microvm@"+a+" microvm@"+b)
	waitFor(t, b, "ping 10.78.0.1 answered")
}

func TestTapHasAQueueForEachCPU(t *testing.T) {
	in(t, "container")
	name := install(t, spec("queues", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-queues", 1)}
		s["vcpu"] = 2
		s["qemu"] = map[string]any{"machine": "q35"}
	}))
	sh(t, "systemctl start microvm@"+name)
	if got := sh(t, "ip -d link show vm-queues"); !strings.Contains(got, "multi_queue") || !strings.Contains(got, "vnet_hdr on") {
		t.Errorf("the tap is %s", got)
	}
	waitFor(t, name, "mac=02:00:00:00:00:01 queues=2")
	sh(t, "systemctl stop microvm@"+name) // by the power button
	if got := sh(t, "journalctl -q -o cat -u microvm@"+name); !strings.Contains(got, "going down: the power button") {
		t.Errorf("the guest did not see the power button:\n%s", got)
	}
}

func TestGuestThatIgnoresTheRequestIsTerminated(t *testing.T) {
	in(t, "container")
	name := install(t, spec("deaf", params("mvguest.ignore-shutdown")))
	sh(t, "mkdir -p /run/systemd/system/microvm@deaf.service.d && printf '[Service]\\nTimeoutStopSec=15\\n' > /run/systemd/system/microvm@deaf.service.d/t.conf && systemctl daemon-reload")
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	began := time.Now()
	sh(t, "systemctl stop microvm@"+name)
	if took := time.Since(began); took < 4*time.Second || took > patience {
		t.Errorf("stop took %s, want some of its 15 s", took)
	}
	log := sh(t, "journalctl -q -o cat -u microvm@"+name)
	for _, want := range []string{"ignoring signal", "asking again", "sending SIGTERM"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	nothingLeft(t, name)
}

func TestHypervisorThatIsKilledComesBackOnTheSameTap(t *testing.T) {
	in(t, "container")
	name := install(t, spec("killed", func(s map[string]any) { s["interfaces"] = []any{tap("vm-killed", 1)} }))
	sh(t, "systemctl start microvm@"+name)
	index := sh(t, "cat /sys/class/net/vm-killed/ifindex")
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	sh(t, "kill -9 "+pid)
	eventually(t, 10*time.Second, "test $(systemctl show -P MainPID microvm@killed) != "+pid+" && systemctl is-active microvm@killed")
	if got := sh(t, "cat /sys/class/net/vm-killed/ifindex"); got != index {
		t.Errorf("the tap was %s and is %s", index, got)
	}
	if got := sh(t, "systemctl show -P NRestarts microvm@"+name); got != "1" {
		t.Errorf("NRestarts is %s", got)
	}
	waitFor(t, name, "test guest is up")
}

func TestGuestThatRebootsIsBackWithinASecond(t *testing.T) {
	in(t, "container")
	name := install(t, spec("reboots", func(s map[string]any) {
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.reboot-after=0"}
	}))
	sh(t, "systemctl start microvm@"+name)
	// It reboots again each time, so that a machine that was busy gets another chance.
	best := time.Hour
	process := processCostWhile(t, func() {
		for reboots := 1; reboots <= 4 && best > time.Second; reboots++ {
			eventually(t, 60*time.Second, fmt.Sprintf("sleep 0.5; test $(journalctl -q -u microvm@reboots | grep -c Started) -gt %d", reboots))
			best = min(best, shortestAbsence(t, sh(t, "journalctl -q -o short-unix -u microvm@reboots | grep -E 'Deactivated|Started'")))
		}
	})
	t.Run("cost", func(t *testing.T) {
		if limit := 2 * bookkeepingLimit(t, process); best > limit {
			t.Errorf("back %s after the hypervisor's exit, more than %s", best, limit)
		}
	})
	t.Logf("back %s after the hypervisor's exit", best)
}

// shortestAbsence is the shortest time from the end of a unit to its next start.
func shortestAbsence(t *testing.T, journal string) time.Duration {
	t.Helper()
	shortest, down := time.Hour, 0.0
	for line := range strings.Lines(journal) {
		var at float64
		if _, err := fmt.Sscanf(line, "%f", &at); err != nil {
			continue
		}
		switch {
		case strings.Contains(line, "Deactivated"):
			down = at
		case strings.Contains(line, "Started") && down != 0:
			shortest = min(shortest, time.Duration((at-down)*float64(time.Second)))
			down = 0
		}
	}
	return shortest
}

func TestInstallingWhileTheVMRunsChangesNothingUntilTheRestart(t *testing.T) {
	in(t, "container")
	name := install(t, spec("swap", func(s map[string]any) { s["interfaces"] = []any{tap("vm-swap-a", 1)} }))
	sh(t, "systemctl start microvm@"+name)
	before := sh(t, "readlink /run/microvm/swap/booted; systemctl show -P MainPID microvm@swap")
	newer := build(t, spec("swap", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-swap-b", 1)}
		s["mem"] = 300
	}))
	sh(t, "install-microvm -p "+newer+" swap")
	if got := sh(t, "readlink /run/microvm/swap/booted; systemctl show -P MainPID microvm@swap"); got != before {
		t.Errorf("installing changed the running VM from %s to %s", before, got)
	}
	sh(t, "ip link show vm-swap-a && microvm list | grep -E 'swap +active +qemu +stale'")
	// Nor does the service manager's own restart, of this one or of one that has no
	// other helper.
	still(t, name, " 256M ")
	alone := install(t, spec("alone", nil))
	sh(t, "systemctl start microvm@"+alone)
	sh(t, "install-microvm -p "+build(t, spec("alone", func(s map[string]any) { s["mem"] = 300 }))+" alone")
	still(t, alone, " 256M ")
	sh(t, "systemctl restart microvm@"+alone+" && tr '\\0' ' ' < /proc/$(systemctl show -P MainPID microvm@alone)/cmdline | grep ' 300M '")
	sh(t, "systemctl restart microvm@"+name)
	sh(t, "ip link show vm-swap-b && no_link vm-swap-a && microvm list | grep -E 'swap +active +qemu +current'")
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	if got := sh(t, "tr '\\0' ' ' < /proc/"+pid+"/cmdline"); !strings.Contains(got, " 300M ") {
		t.Errorf("after the restart the VM is still the old one: %s", got)
	}
	if got := sh(t, "readlink /var/lib/microvms/swap/old"); got == sh(t, "readlink /var/lib/microvms/swap/current") {
		t.Error("old is current")
	}
}

// still kills the hypervisor of a VM and wants the one that comes back to be the
// same, with words in its command line.
func still(t *testing.T, name, words string) {
	t.Helper()
	booted := "readlink /run/microvm/" + name + "/booted"
	before, pid := sh(t, booted), sh(t, "systemctl show -P MainPID microvm@"+name)
	sh(t, "kill -9 "+pid)
	eventually(t, 10*time.Second, "p=$(systemctl show -P MainPID microvm@"+name+") && test $p != 0 -a $p != "+pid+" && systemctl is-active microvm@"+name+" && tr '\\0' ' ' < /proc/$p/cmdline | grep -- '"+words+"'")
	if after := sh(t, booted); after != before {
		t.Errorf("%s boots %s after a crash, and booted %s", name, after, before)
	}
}

// foreign installs a package that has no plan, only programs.
func foreign(t *testing.T, name, run, shutdown string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "p")
	files := map[string]string{"bin/microvm-run": run, "share/microvm/hypervisor": "qemu\n",
		"share/microvm/tap-interfaces": "vm-" + name + "\n", "share/microvm/tap-flags": "vnet_hdr\n"}
	if shutdown != "" {
		files["bin/microvm-shutdown"] = shutdown
	}
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "chmod 755 "+filepath.Dir(dir)+" && install-microvm -p "+dir+" "+name)
	cleanUp(t, name)
}

func TestPackageWithoutAPlanStartsAndStops(t *testing.T) {
	in(t, "container")
	foreign(t, "foreign", "#!/bin/sh\nexec sleep 1000\n", "#!/bin/sh\necho asking politely\npkill -x -u microvm sleep\n")
	sh(t, "systemctl start microvm@foreign && systemctl is-active microvm@foreign && ip link show vm-foreign")
	if got := sh(t, "stat -c %U /proc/$(systemctl show -P MainPID microvm@foreign)"); got != "microvm" {
		t.Errorf("it runs as %s", got)
	}
	sh(t, "systemctl stop microvm@foreign")
	eventually(t, 5*time.Second, "no_link vm-foreign")
	if got := sh(t, "journalctl -q -o cat -u microvm@foreign"); !strings.Contains(got, "microvm-shutdown: asking politely") {
		t.Errorf("its microvm-shutdown was not run:\n%s", got)
	}
	nothingLeft(t, "foreign")
}

func TestAForeignHypervisorThatIgnoresSIGTERMIsKilled(t *testing.T) {
	in(t, "container")
	foreign(t, "stubborn", "#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 1; done\n", "")
	sh(t, "systemctl start microvm@stubborn && systemctl stop microvm@stubborn")
	log := sh(t, "journalctl -q -o cat -u microvm@stubborn")
	for _, want := range []string{"sending SIGTERM", "sending SIGKILL"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	nothingLeft(t, "stubborn")
}

func TestAVMThatKeepsFailingIsTriedEverMoreRarely(t *testing.T) {
	in(t, "container")
	foreign(t, "failing", "#!/bin/sh\nexit 1\n", "")
	_, _ = try("timeout 300 systemctl start microvm@failing") // it may be ready for a moment
	const starts = "journalctl -q -o short-unix -u microvm@failing | grep -F 'Main process exited, code=exited, status=1/FAILURE'"
	eventually(t, 60*time.Second, "test $("+starts+" | wc -l) -ge 7")
	var at []float64
	for line := range strings.Lines(sh(t, starts)) {
		var seconds float64
		if _, err := fmt.Sscanf(line, "%f", &seconds); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		at = append(at, seconds)
	}
	first, last := at[1]-at[0], at[6]-at[5]
	t.Logf("the second try came after %.2f s, the seventh %.2f s after the sixth", first, last)
	if first > 1 || last < 4*first {
		t.Errorf("the second try came after %.2f s, the seventh %.2f s after the sixth", first, last)
	}
	sh(t, "systemctl stop microvm@failing")
	nothingLeft(t, "failing")
}

func TestInstallKilledAnywhereLeavesAWholeState(t *testing.T) {
	in(t, "container")
	a := build(t, spec("crash", nil))
	b := build(t, spec("crash", func(s map[string]any) { s["mem"] = 300; s["interfaces"] = []any{tap("vm-crash", 1)} }))
	sh(t, "install-microvm -p "+a+" crash")
	cleanUp(t, "crash")
	from := sh(t, "readlink /var/lib/microvms/crash/current")
	sh(t, "install-microvm -p "+b+" crash")
	to := sh(t, "readlink /var/lib/microvms/crash/current")
	// The calls that change something, and those before them; kill at each.
	const calls = "openat,openat2,mkdirat,symlinkat,renameat,renameat2,unlinkat,fchmod,fchmodat,fchown,write,fsync,flock"
	killed := 0
	for n := 1; n < 2000; n++ {
		sh(t, "install-microvm -p "+a+" crash && rm -rf "+to)
		_, err := try(fmt.Sprintf("strace -f -qq -o /dev/null -e trace=%[1]s -e inject=%[1]s:signal=KILL:when=%[2]d install-microvm -p %[3]s crash", calls, n, b))
		got := sh(t, "readlink /var/lib/microvms/crash/current")
		if got != from && got != to {
			t.Fatalf("killed at call %d: current is %s", n, got)
		}
		sh(t, "test -s $(readlink -f /var/lib/microvms/crash/current)/share/microvm/runner.json")
		if err == nil {
			break
		}
		killed++
	}
	sh(t, "install-microvm -p "+b+" crash")
	if out := sh(t, "find /var/lib/microvms -name '.microvm-new-*'"); out != "" {
		t.Errorf("leftovers after the next installation: %s", out)
	}
	if killed < 20 {
		t.Errorf("only %d places to die were reached", killed)
	}
	t.Logf("killed at %d calls", killed)
}
