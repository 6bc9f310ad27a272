package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// realHypervisor skips where MICROVM_TEST_HYPERVISORS named no such program.
func realHypervisor(t *testing.T, program string) {
	t.Helper()
	in(t, "vm")
	if _, err := os.Stat(hypervisorsDir + "/bin/" + program); err != nil {
		t.Skip("MICROVM_TEST_HYPERVISORS names no directory with " + program)
	}
}

// addDisk has a VM's Cloud Hypervisor open one more disk, as somebody would who
// has taken it over.
func addDisk(t *testing.T, name, path string) string {
	t.Helper()
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", "/var/lib/microvms/"+name+"/"+name+".sock")
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://localhost/api/v1/vm.add-disk",
		strings.NewReader(`{"path":"`+path+`","image_type":"Raw"}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status + " " + string(text)
}

// TestLandlockKeepsCloudHypervisorToItsFiles: with it a disk elsewhere cannot be
// opened, without it can; and a guest that reboots finds all that it had.
func TestLandlockKeepsCloudHypervisorToItsFiles(t *testing.T) {
	realHypervisor(t, "cloud-hypervisor")
	sh(t, "mkdir -p /srv/landlock /srv/locked && truncate -s 1M /srv/locked/out.img && chown microvm /srv/locked/out.img /srv/landlock")
	t.Cleanup(func() { _, _ = try("rm -r /srv/landlock /srv/locked") })
	for _, locked := range []bool{true, false} {
		name := "unlocked"
		words := []string{"mvguest.mount=data:/data:ext4"}
		if locked {
			name, words = "locked", append(words, "mvguest.mount=rw:/rw:virtiofs", "mvguest.write=/rw/reply", "mvguest.ip=10.77.9.2/24")
		}
		install(t, spec(name, func(s map[string]any) {
			s["hypervisor"] = "cloud-hypervisor"
			s["cloud-hypervisor"] = map[string]any{"package": hypervisorsDir, "landlock": locked}
			s["vsock"] = map[string]any{"cid": 61}
			s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
			s["kernelParams"] = words
			if locked {
				s["interfaces"] = []any{tap("vm-locked", 1)}
				s["shares"] = []any{map[string]any{"tag": "rw", "source": "/srv/landlock", "proto": "virtiofs"}}
			}
		}))
		sh(t, "systemctl start microvm@"+name)
		sh(t, "truncate -s 1M /var/lib/microvms/"+name+"/more.img && chown microvm /var/lib/microvms/"+name+"/more.img")
		if got := addDisk(t, name, "more.img"); !strings.HasPrefix(got, "2") {
			t.Errorf("%s: a disk in the state directory is not added: %s", name, got)
		}
		got := addDisk(t, name, "/srv/locked/out.img")
		t.Logf("%s: %s", name, got)
		if locked != strings.Contains(got, "Permission denied") || locked == strings.HasPrefix(got, "2") {
			t.Errorf("%s: a disk elsewhere: %s", name, got)
		}
		if locked {
			sh(t, "ip address replace 10.77.9.1/24 dev vm-locked && ping -c 1 -W 10 10.77.9.2")
			waitFor(t, name, "write /rw/reply: (<nil>)")
		}
		sh(t, "systemctl stop microvm@"+name)
		if log := sh(t, logs(name)); !strings.Contains(log, "marker written and synced to /data") {
			t.Errorf("%s: the guest did not go down by itself:\n%s", name, log)
		}
		nothingLeft(t, name)
	}
}

// TestAGuestOfAConfinedCloudHypervisorReboots: it creates the machine again from
// within its confinement.
func TestAGuestOfAConfinedCloudHypervisorReboots(t *testing.T) {
	realHypervisor(t, "cloud-hypervisor")
	name := install(t, spec("relocked", func(s map[string]any) {
		s["hypervisor"] = "cloud-hypervisor"
		s["cloud-hypervisor"] = map[string]any{"package": hypervisorsDir}
		s["vsock"] = map[string]any{"cid": 62}
		s["interfaces"] = []any{tap("vm-relocked", 1)}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.reboot-after=0"}
	}))
	sh(t, "systemctl start microvm@"+name)
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	waitFor(t, name, "found marker on /data")
	if now := sh(t, "systemctl show -P MainPID microvm@"+name); now != pid {
		t.Errorf("the hypervisor was process %s and is %s", pid, now)
	}
	if log := sh(t, logs(name)); strings.Contains(log, "Permission denied") {
		t.Errorf("it is refused something:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
}

// TestCrosvmSandboxesItsDevices: with crosvm.pivotRoot each device is a process
// with a root of its own and a filter of system calls.
func TestCrosvmSandboxesItsDevices(t *testing.T) {
	realHypervisor(t, "crosvm")
	sh(t, "mkdir -p /srv/pivot /srv/nine && echo hello > /srv/nine/hello && chown -R microvm /srv/nine")
	t.Cleanup(func() { _, _ = try("rm -r /srv/pivot /srv/nine") })
	name := install(t, spec("pivoted", func(s map[string]any) {
		s["hypervisor"] = "crosvm"
		s["crosvm"] = map[string]any{"package": hypervisorsDir, "pivotRoot": "/srv/pivot"}
		s["vsock"] = map[string]any{"cid": 63}
		s["readiness"] = "vmm"
		s["balloon"] = true
		s["interfaces"] = []any{tap("vm-pivoted", 1)}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["shares"] = []any{map[string]any{"tag": "nine", "source": "/srv/nine", "proto": "9p"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.mount=nine:/nine:9p", "mvguest.read=/nine/hello", "mvguest.ip=10.77.8.2/24"}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	waitFor(t, name, `read /nine/hello: "hello\n"`)
	sh(t, "ip address replace 10.77.8.1/24 dev vm-pivoted && ping -c 1 -W 10 10.77.8.2")
	// The unit has filters of its own, which all of them inherit.
	const filters = "sed -n 's/^Seccomp_filters:[[:space:]]*//p' /proc/$p/status"
	own := number(t, sh(t, "p=$(systemctl show -P MainPID microvm@"+name+"); "+filters))
	devices := sh(t, "for p in $(pgrep -P $(systemctl show -P MainPID microvm@"+name+")); do echo $("+filters+") $(ls -A /proc/$p/root | wc -l) $(sed -n 's/^CapEff:[[:space:]]*//p' /proc/$p/status); done")
	t.Logf("the main process has %d filters of system calls; those of devices: filters, entries in the root, capabilities\n%s", own, devices)
	jailed := 0
	for line := range strings.Lines(devices) {
		var count, entries int
		if _, err := fmt.Sscanf(line, "%d %d", &count, &entries); err == nil && count > own && entries == 0 {
			jailed++
		}
	}
	// The disk, the tap, the balloon and the source of randomness, at least.
	if jailed < 4 {
		t.Errorf("%d processes of devices are in a sandbox", jailed)
	}
	sh(t, "systemctl stop microvm@"+name)
	if log := sh(t, logs(name)); !strings.Contains(log, "marker written and synced to /data") || !strings.Contains(log, "Deactivated successfully") {
		t.Errorf("the guest did not go down by itself:\n%s", log)
	}
	nothingLeft(t, name)
}
