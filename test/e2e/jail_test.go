package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// jailedProgram stands in for firecracker: its guest reports, and it writes down
// what its own root lets it see and do.
const jailedProgram = `#!/bin/sh
[ "$1" = --version ] && { echo 'Firecracker v1.16.1'; exit; }
{
  echo root $(ls -A /)
  echo devices $(ls -A /dev)
  echo state $(ls -A "$(dirname "$PWD")")
  echo proc $(ls /proc | grep -v '^[0-9]*$')
  echo files $(ulimit -n)
  echo environment $(tr '\0' ' ' < /proc/$$/environ)
  for f in /x /etc/x /usr/x /run/x /dev/x /dev/shm/x /srv/jail/ro.img /srv/jail/rw.img ./x; do
    (echo written > "$f") 2> /dev/null && echo writes "$f"
  done
  cat /srv/jail/ro.img
  timeout 5 nc -N -U /run/systemd/private < /dev/null && echo reaches systemd
  for p in /proc/[0-9]*; do
    [ "$p" = /proc/$$ ] || (tr '\0' ' ' < "$p/cmdline" | sed 's/^/process /; s/$/\n/') 2> /dev/null
  done
} > view 2>&1
printf 'READY=1\n' | nc -N -U notify.vsock_28022
exec sleep 1000
`

// jailedSpec is a VM of the stand-in, with two disks of the host's.
func jailedSpec(t *testing.T, name string, jailer bool) map[string]any {
	t.Helper()
	sh(t, "mkdir -p /srv/jail/bin && echo reads the disk > /srv/jail/ro.img && truncate -s 1M /srv/jail/rw.img && chown microvm /srv/jail/*.img")
	t.Cleanup(func() { _ = os.RemoveAll("/srv/jail") })
	if err := os.WriteFile("/srv/jail/bin/firecracker", []byte(jailedProgram), 0o755); err != nil {
		t.Fatal(err)
	}
	return spec(name, func(s map[string]any) {
		delete(s, "cpu")
		s["hypervisor"] = "firecracker"
		s["firecracker"] = map[string]any{"package": "/srv/jail", "jailer": jailer}
		s["vsock"] = map[string]any{"cid": 78}
		s["socket"] = nil
		s["interfaces"] = []any{tap("vm-jailed", 1)}
		s["volumes"] = []any{
			map[string]any{"image": "/srv/jail/rw.img", "autoCreate": false},
			map[string]any{"image": "/srv/jail/ro.img", "autoCreate": false, "readOnly": true},
			map[string]any{"image": "own.img", "size": 16},
		}
	})
}

// dropIns are the drop-ins that install-microvm made for a VM.
func dropIns(t *testing.T, name string) string {
	t.Helper()
	return sh(t, "cd /etc/systemd/system.control && ls microvm@"+name+".service.d 2>/dev/null || echo none")
}

// visible returns those of some paths of the host that a VM's hypervisor can reach.
func visible(t *testing.T, name string, paths ...string) string {
	t.Helper()
	return sh(t, fmt.Sprintf("cd /proc/$(systemctl show -P MainPID microvm@%s)/root && for p in %s; do test ! -e ./$p || echo $p; done", name, strings.Join(paths, " ")))
}

func TestAJailedVMSeesItsOwnFilesOnly(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	neighbour := install(t, spec("neighbour", nil))
	sh(t, "install -o microvm -m 644 /dev/null /var/lib/microvms/"+neighbour+"/secret")
	sh(t, "touch /dev/shm/other")
	t.Cleanup(func() { _ = os.Remove("/dev/shm/other") })
	// Of the same user, and in a user namespace of its own as a neighbour is.
	sh(t, "systemd-run -q --unit jail-peer -p User=microvm -p PrivateUsers=yes sleep 98765")
	t.Cleanup(func() { _, _ = try("systemctl stop jail-peer") })
	name := install(t, jailedSpec(t, "jailed", true))
	hidden := []string{"/etc/shadow", "/etc/passwd", "/home", "/root", "/srv/jail/bin/x", "/var/log", "/sys/kernel", "/dev/vda", "/dev/mem", "/dev/shm/other", "/run/systemd/system", "/var/lib/microvms/" + neighbour}
	if got := dropIns(t, name); got != "50-helpers.conf\n50-jail.conf\n50-mounts.conf\nzz-jail-root.conf" {
		t.Errorf("the drop-ins are %s", got)
	}
	sh(t, "timeout 300 systemctl start microvm@"+name)
	if got := sh(t, "systemctl is-active microvm@"+name); got != "active" {
		t.Errorf("the VM is %s", got)
	}
	if got := visible(t, name, hidden...); got != "" {
		t.Errorf("the hypervisor sees\n%s", got)
	}
	if got := visible(t, name, "/dev/kvm", "/dev/net/tun", "/srv/jail/rw.img", "/var/lib/microvms/"+name+"/own.img"); strings.Count(got, "\n") != 3 {
		t.Errorf("of what it needs the hypervisor has only\n%s", got)
	}
	view := sh(t, "cat /var/lib/microvms/"+name+"/view")
	t.Log(view)
	for _, line := range []string{"state .origin .store " + name, "files 2048", "environment", "writes /srv/jail/rw.img", "writes ./x", "reads the disk"} {
		if !strings.Contains("\n"+view+"\n", "\n"+line+"\n") {
			t.Errorf("what the hypervisor writes down has no line %q", line)
		}
	}
	if strings.Count(view, "writes ") != 2 {
		t.Error("the hypervisor can write more than it should")
	}
	if strings.Contains(view, "reaches systemd") {
		t.Error("the hypervisor can connect to the service manager")
	}
	for line := range strings.Lines(view) {
		// The child that waits for the guest is the VM's own.
		if strings.HasPrefix(line, "process ") && !strings.Contains(line, "await-ready") {
			t.Errorf("the hypervisor reads of a %s", line)
		}
	}
	// Its stop command finds it from within the same jail.
	sh(t, "systemctl stop microvm@"+name)
	if log := sh(t, logs(name)); !strings.Contains(log, "the hypervisor exited after SIGTERM") {
		t.Errorf("the hypervisor was not stopped by the unit's own command:\n%s", log)
	}
	if got := sh(t, "systemctl show -P Result microvm@"+name); got != "success" {
		t.Errorf("the run ended with %q:\n%s", got, sh(t, logs(name)))
	}
	nothingLeft(t, name)
	jailCanBeLeft(t, name, hidden)
}

// jailCanBeLeft installs a VM without its jail, goes back, and removes it.
func jailCanBeLeft(t *testing.T, name string, hidden []string) {
	t.Helper()
	sh(t, "install-microvm -p "+build(t, jailedSpec(t, name, false))+" "+name)
	if got := dropIns(t, name); got != "50-helpers.conf\n50-mounts.conf" {
		t.Errorf("without the option the drop-ins are %s", got)
	}
	sh(t, "timeout 300 systemctl start microvm@"+name)
	if got := visible(t, name, hidden...); !strings.Contains(got, "/etc/passwd") {
		t.Errorf("without a jail the hypervisor sees\n%s", got)
	}
	sh(t, "systemctl stop microvm@"+name+" && microvm rollback "+name)
	if got := dropIns(t, name); got != "50-helpers.conf\n50-jail.conf\n50-mounts.conf\nzz-jail-root.conf" {
		t.Errorf("after going back the drop-ins are %s", got)
	}
	sh(t, "microvm rm --yes "+name)
	if got := dropIns(t, name); got != "none" {
		t.Errorf("the VM is removed, and of its drop-ins there is %s", got)
	}
}

// TestAJailStandsWhereTheStateDirectoryIsMoved has the drop-in that NixOS makes
// there, which resets the unit's own mounts.
func TestAJailStandsWhereTheStateDirectoryIsMoved(t *testing.T) {
	in(t, "container")
	pretendKVM(t)
	name := install(t, jailedSpec(t, "moved", true))
	dir := "/run/systemd/system/microvm@.service.d"
	sh(t, "mkdir -p "+dir+` && printf '%s\n' '[Service]' TemporaryFileSystem= TemporaryFileSystem=/var/lib/microvms:ro BindPaths= BindPaths=-/var/lib/microvms/%i 'BindReadOnlyPaths=-/var/lib/microvms/.store -/var/lib/microvms/.origin/%i' > `+dir+"/overrides.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r " + dir + " && systemctl daemon-reload") })
	sh(t, "timeout 300 systemctl start microvm@"+name)
	if got := visible(t, name, "/etc/shadow", "/etc/passwd", "/home", "/root"); got != "" {
		t.Errorf("the hypervisor sees\n%s", got)
	}
	sh(t, "systemctl stop microvm@"+name)
}

// TestJailOfTheRealFirecracker takes a VM of Firecracker itself through its life
// in a jail. Firecracker is in no distribution.
func TestJailOfTheRealFirecracker(t *testing.T) {
	in(t, "vm")
	if _, err := os.Stat(hypervisorsDir + "/bin/firecracker"); err != nil {
		t.Skip("MICROVM_TEST_HYPERVISORS names no directory with firecracker")
	}
	sh(t, "mkdir -p /var/lib/microvms/other /srv/jail && touch /var/lib/microvms/other/secret && truncate -s 16M /srv/jail/rw.img && chown microvm /srv/jail/rw.img")
	t.Cleanup(func() { _, _ = try("rm -rf /var/lib/microvms/other /var/lib/microvms/.origin/other /srv/jail") })
	name := install(t, spec("jailfc", func(s map[string]any) {
		s["hypervisor"] = "firecracker"
		s["firecracker"] = map[string]any{"package": hypervisorsDir, "jailer": true}
		s["vsock"] = map[string]any{"cid": 52}
		s["interfaces"] = []any{tap("vm-jailfc", 1)}
		s["volumes"] = []any{
			map[string]any{"image": "data.img", "size": 64, "label": "data"},
			map[string]any{"image": "/srv/jail/rw.img", "autoCreate": false},
		}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.ip=10.79.0.2/24", "mvguest.write=/data/kept"}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	if got := visible(t, name, "/etc/shadow", "/etc/passwd", "/home", "/root", "/var/lib/microvms/other", "/dev/vda", "/sys", "/var/log"); got != "" {
		t.Errorf("Firecracker sees\n%s", got)
	}
	root := "/proc/$(systemctl show -P MainPID microvm@" + name + ")/root"
	t.Logf("Firecracker's root:\n%s", sh(t, "cd "+root+" && ls -lA . dev && ls -A etc run/* var/lib/microvms proc | grep -vE '^[0-9]+$' && grep -E 'Max open files' /proc/$(systemctl show -P MainPID microvm@"+name+")/limits; systemd-analyze security microvm@"+name+" | tail -1"))
	sh(t, "ip address replace 10.79.0.1/24 dev vm-jailfc && ping -c 1 -W 10 10.79.0.2")
	waitFor(t, name, "write /data/kept: (<nil>)")
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	sh(t, "sync; kill -9 "+pid)
	eventually(t, 120*time.Second, fmt.Sprintf("p=$(systemctl show -P MainPID microvm@%[1]s); test $p != 0 -a $p != %[2]s && systemctl is-active microvm@%[1]s", name, pid))
	eventually(t, 90*time.Second, "test $("+logs(name)+" | grep -c 'test guest is up') = 2")
	sh(t, "systemctl stop microvm@"+name)
	if log := sh(t, logs(name)); !strings.Contains(log, "marker written and synced to /data") || !strings.Contains(log, "Deactivated successfully") {
		t.Errorf("the guest did not go down by itself:\n%s", log)
	}
	nothingLeft(t, name)
}
