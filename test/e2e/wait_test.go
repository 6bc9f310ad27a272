package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// lateMount makes a mount unit for point that shows the directory behind once its
// disk, a service, is there, which takes as many seconds as sleep(1) is told.
func lateMount(t *testing.T, point, behind, seconds string) (unit string) {
	t.Helper()
	unit = sh(t, "systemd-escape -p --suffix=mount "+point)
	disk := strings.TrimSuffix(unit, ".mount") + "-disk.service"
	sh(t, fmt.Sprintf("mkdir -p %[1]s %[2]s; chmod 755 %[1]s %[2]s", point, behind))
	put(t, "/etc/systemd/system/"+disk, "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=infinity\nExecStart=sleep "+seconds+"\n", 0o644)
	put(t, "/etc/systemd/system/"+unit, fmt.Sprintf("[Unit]\nRequires=%[1]s\nAfter=%[1]s\n[Mount]\nWhat=%[2]s\nWhere=%[3]s\nType=none\nOptions=bind\n", disk, behind, point), 0o644)
	sh(t, "systemctl daemon-reload")
	t.Cleanup(func() {
		_, _ = try(fmt.Sprintf("systemctl stop --no-block %[1]s %[2]s; systemctl kill -s KILL %[2]s", unit, disk))
		_, _ = try(fmt.Sprintf("systemctl stop %[1]s %[2]s; umount %[4]s; rm -rf /etc/systemd/system/%[1]s /etc/systemd/system/%[2]s %[3]s; rmdir %[4]s; systemctl daemon-reload; systemctl reset-failed", unit, disk, behind, point))
	})
	return unit
}

// TestAVMComesAfterTheMountsOfItsFiles: its kernel, a volume and a share are on a
// file system that is mounted only when the VM wants it, and seconds later.
func TestAVMComesAfterTheMountsOfItsFiles(t *testing.T) {
	in(t, "container")
	const point, behind = "/srv/late", "/var/tmp/late-disk"
	mount := lateMount(t, point, behind, "3")
	sh(t, fmt.Sprintf("install -m 644 %s/vmlinuz %s/vmlinuz; install -d -o microvm -g kvm %[2]s/images; mkdir %[2]s/home", assets, behind))
	sh(t, "ln -sfn "+point+" /srv/link")
	t.Cleanup(func() { sh(t, "rm -f /srv/link") })
	name := install(t, spec("latemount", func(s map[string]any) {
		s["kernel"] = "/srv/link/vmlinuz"
		s["volumes"] = []any{map[string]any{"image": point + "/images/data.img", "size": 8}}
		s["shares"] = []any{map[string]any{"tag": "home", "source": point + "/home", "proto": "virtiofs"}}
	}))
	for _, unit := range []string{"microvm", "microvm-virtiofsd"} {
		show := sh(t, fmt.Sprintf("systemctl show -p WantsMountsFor,RequiresMountsFor,Wants,Requires,After %s@%s", unit, name))
		t.Logf("%s@%s:\n%s", unit, name, show)
		for line := range strings.Lines(show) {
			property, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			has := strings.Contains(value, mount)
			switch property {
			case "Wants", "After":
				if !has {
					t.Errorf("%s: %s= has no %s: %s", unit, property, mount, value)
				}
			case "WantsMountsFor":
				if !strings.Contains(value, point) {
					t.Errorf("%s: %s= has no %s: %s", unit, property, point, value)
				}
			default:
				if has || strings.Contains(value, point) || strings.Contains(value, "remote-fs") {
					t.Errorf("%s: %s=%s", unit, property, value)
				}
			}
			if property == "After" && strings.Contains(value, "remote-fs.target") {
				t.Errorf("%s comes after all remote file systems", unit)
			}
		}
	}
	sh(t, "systemctl start microvm@"+name)
	sh(t, "mountpoint "+point+" && test -s "+behind+"/images/data.img && systemctl is-active microvm@"+name)
	if log := sh(t, logs(name)); strings.Contains(log, "was missing") || regexp.MustCompile(`/srv/.*no such file`).MatchString(log) {
		t.Errorf("it did not wait:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	// Where the mount has failed, nothing is made in its place.
	sh(t, fmt.Sprintf("systemctl stop %s && sed -i -e s/Type=none/Type=nosuchfs/ -e /Options=bind/d /etc/systemd/system/%[1]s && systemctl daemon-reload", mount))
	if log := startFails(t, name); !strings.Contains(log, "is not mounted") {
		t.Errorf("the journal does not say that it is not mounted:\n%s", log)
	}
	if out := sh(t, "ls -A "+point); out != "" {
		t.Errorf("made on the wrong disk: %s", out)
	}
}

// TestADeadServerHoldsUpNoOtherVM: a remote file system that is never mounted is
// not waited for by a VM with a share that needs nothing of it.
func TestADeadServerHoldsUpNoOtherVM(t *testing.T) {
	in(t, "container")
	mount := lateMount(t, "/srv/dead", "/var/tmp/dead-disk", "infinity")
	put(t, "/run/systemd/system/remote-fs.target.d/dead.conf", "[Unit]\nWants="+mount+"\nAfter="+mount+"\n", 0o644)
	sh(t, "systemctl daemon-reload")
	t.Cleanup(func() {
		sh(t, "rm -rf /run/systemd/system/remote-fs.target.d; systemctl daemon-reload; systemctl start --no-block remote-fs.target")
	})
	sh(t, "systemctl stop remote-fs.target; systemctl start --no-block remote-fs.target; systemctl list-jobs | grep remote-fs.target")
	name := install(t, spec("localdisk", func(s map[string]any) {
		s["shares"] = []any{map[string]any{"tag": "home", "source": "home", "proto": "virtiofs"}}
	}))
	sh(t, "timeout 60 systemctl start microvm@"+name)
	t.Log(sh(t, "systemctl list-jobs --no-pager | grep -E 'remote-fs.target|"+mount+"'"))
	sh(t, "systemctl stop microvm@"+name)
	// One that needs it waits, and no longer than its mount's job.
	other := install(t, spec("onserver", func(s map[string]any) {
		s["volumes"] = []any{map[string]any{"image": "/srv/dead/data.img", "autoCreate": false}}
	}))
	if out, err := try("timeout 3 systemctl start microvm@" + other); err == nil || !strings.Contains(err.Error(), "124") {
		t.Errorf("it did not wait for its mount: %v: %s", err, out)
	}
	if got := sh(t, "systemctl show -P ExecMainStartTimestampMonotonic microvm@"+other); got != "0" {
		t.Error("it was started without its disk")
	}
}

// TestAVMWhoseFileComesLaterStartsByItself: the start returns at the first failed
// attempt, and the unit goes on.
func TestAVMWhoseFileComesLaterStartsByItself(t *testing.T) {
	in(t, "container")
	sh(t, "install -m 644 "+assets+"/vmlinuz /root/latekernel && chmod 755 /root")
	name := install(t, spec("latekernel", func(s map[string]any) { s["kernel"] = "/root/latekernel" }))
	sh(t, "mv /root/latekernel /root/latekernel.away")
	t.Cleanup(func() { sh(t, "rm -f /root/latekernel /root/latekernel.away") })
	began := time.Now()
	out, code := microvm(t, "start", name)
	if code == 0 || !strings.Contains(out, "latekernel: no such file or directory") || time.Since(began) > 30*time.Second {
		t.Errorf("code %d after %s: %s", code, time.Since(began), out)
	}
	t.Log(out)
	sh(t, "test $(systemctl show -P ActiveState microvm@"+name+") = activating")
	eventually(t, 20*time.Second, "test $(systemctl show -P NRestarts microvm@"+name+") -ge 2")
	sh(t, "mv /root/latekernel.away /root/latekernel")
	eventually(t, 60*time.Second, "systemctl is-active microvm@"+name)
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}

// TestAStartSaysWhatItWaitsFor: an interface that a macvtap is to stand on. That
// there are macvtaps is not needed for this.
func TestAStartSaysWhatItWaitsFor(t *testing.T) {
	in(t, "container")
	name := install(t, spec("waiting", func(s map[string]any) {
		s["interfaces"] = []any{map[string]any{"type": "macvtap", "id": "mv-waiting", "mac": "02:00:00:00:00:01", "macvtap": map[string]any{"link": "late7", "mode": "bridge"}}}
	}))
	// The wait asks the service manager for the time that it may take.
	dropIn := "/run/systemd/system/microvm-macvtap-interfaces@" + name + ".service.d"
	put(t, dropIn+"/wait.conf", "[Service]\nTimeoutStartSec=3\nEnvironment=MICROVM_WAIT=300\n", 0o644)
	sh(t, "systemctl daemon-reload")
	t.Cleanup(func() { sh(t, "rm -r "+dropIn+"; systemctl daemon-reload") })
	start := exec.Command("timeout", "200", "microvm", "start", name)
	var said strings.Builder
	start.Stdout, start.Stderr = &said, &said
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	helper := "microvm-macvtap-interfaces@" + name
	eventually(t, 10*time.Second, "systemctl show -P StatusText "+helper+" | grep -x 'waiting for interface late7'")
	t.Log(sh(t, "systemctl status --no-pager --lines 0 "+helper+" || true"))
	// An absent interface costs other VMs nothing.
	other := install(t, spec("nowaiting", nil))
	began := time.Now()
	sh(t, "systemctl start microvm@"+other)
	t.Logf("another VM started meanwhile in %s", time.Since(began))
	waitFor(t, other, "test guest is up")
	sh(t, "test $(systemctl show -P ActiveState "+helper+") = activating && systemctl stop microvm@"+other)
	// A stop ends the wait at once, and nothing has failed.
	began = time.Now()
	sh(t, "microvm stop "+name)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the stop took %s", took)
	}
	_ = start.Wait()
	t.Log(said.String())
	if want := "waiting: waiting for interface late7 (" + helper + ")\n"; !strings.Contains(said.String(), want) {
		t.Errorf("microvm start said %q, not %q", said.String(), want)
	}
	eventually(t, 10*time.Second, "test $(systemctl show -P ActiveState "+helper+") = inactive")
	nothingLeft(t, name)
}

// patient gives all units of this host as long to wait as an emulated machine takes.
func patient(t *testing.T) {
	t.Helper()
	const dropIn = "/run/systemd/system/service.d/patient.conf"
	put(t, dropIn, "[Service]\nEnvironment=MICROVM_WAIT=600\n", 0o644)
	sh(t, "systemctl daemon-reload")
	t.Cleanup(func() { sh(t, "rm "+dropIn+"; systemctl daemon-reload") })
}

// TestAMacvtapWhoseParentComesLater needs a kernel that has macvtaps.
func TestAMacvtapWhoseParentComesLater(t *testing.T) {
	in(t, "vm")
	patient(t)
	name := install(t, spec("lateparent", func(s map[string]any) {
		s["interfaces"] = []any{map[string]any{"type": "macvtap", "id": "mv-late", "mac": "02:00:00:00:00:01", "macvtap": map[string]any{"link": "late7", "mode": "bridge"}}}
	}))
	t.Cleanup(func() { _, _ = try("ip link delete late7") })
	sh(t, "systemctl start --no-block microvm@"+name)
	eventually(t, 3*time.Minute, "systemctl show -P StatusText microvm-macvtap-interfaces@"+name+" | grep -x 'waiting for interface late7'")
	sh(t, "ip link add late7 type dummy && ip link set late7 up")
	eventually(t, 5*time.Minute, "systemctl is-active microvm@"+name)
	if got := sh(t, "systemctl show -P NRestarts microvm@"+name); got != "0" {
		t.Errorf("it was started %s times more", got)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
}

// TestACardThatComesLater takes a card from the bus, and puts it back when its VM
// waits for it.
func TestACardThatComesLater(t *testing.T) {
	in(t, "vm")
	patient(t)
	address, _ := card(t)
	name := install(t, spec("latecard", func(s map[string]any) {
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
	}))
	t.Cleanup(func() { _, _ = try("echo 1 > /sys/bus/pci/rescan; udevadm settle") })
	sh(t, "echo 1 > /sys/bus/pci/devices/"+address+"/remove")
	sh(t, "systemctl start --no-block microvm@"+name)
	eventually(t, 3*time.Minute, "systemctl show -P StatusText microvm-pci-devices@"+name+" | grep -x 'waiting for PCI device "+address+"'")
	sh(t, "echo 1 > /sys/bus/pci/rescan")
	eventually(t, 5*time.Minute, "systemctl is-active microvm@"+name)
	// It goes back to the driver that it got before the VM did.
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	eventually(t, time.Minute, "test $(basename $(readlink /sys/bus/pci/devices/"+address+"/driver)) = e1000e")
}

// TestAWaitInVainIsTriedAgain: with the VM, by its own delay.
func TestAWaitInVainIsTriedAgain(t *testing.T) {
	in(t, "container")
	name := install(t, spec("invain", func(s map[string]any) {
		s["interfaces"] = []any{map[string]any{"type": "macvtap", "id": "mv-invain", "mac": "02:00:00:00:00:01", "macvtap": map[string]any{"link": "late7", "mode": "bridge"}}}
	}))
	dropIn := "/run/systemd/system/microvm-macvtap-interfaces@" + name + ".service.d"
	put(t, dropIn+"/wait.conf", "[Service]\nEnvironment=MICROVM_WAIT=1\n", 0o644)
	sh(t, "systemctl daemon-reload")
	t.Cleanup(func() { sh(t, "rm -r "+dropIn+"; systemctl daemon-reload") })
	out, code := microvm(t, "start", name)
	if code == 0 || !strings.Contains(out, `interface "late7" not found`) && !strings.Contains(out, "has not done its work") {
		t.Errorf("code %d: %s", code, out)
	}
	t.Log(out)
	const vain = `hint: correct macvtap.link`
	eventually(t, 60*time.Second, "test $("+logs(name)+" | grep -c '"+vain+"') -ge 3")
	sh(t, "microvm stop "+name)
	nothingLeft(t, name)
}
