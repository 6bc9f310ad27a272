package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// finding is one of the doctor's.
type finding struct{ Check, Status, Detail, Remedy string }

func findings(t *testing.T, words ...string) map[string]finding {
	t.Helper()
	out := sh(t, "microvm doctor --json "+strings.Join(words, " ")+" 2>/dev/null || true")
	var list []finding
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all := map[string]finding{}
	for _, f := range list {
		if f.Status == "ok" == (f.Remedy != "") {
			t.Errorf("%+v: a remedy, where something is to be done and only there", f)
		}
		if all[f.Check].Status != "failed" {
			all[f.Check] = f
		}
	}
	return all
}

func TestDoctorRunsAGuestsFirstInstruction(t *testing.T) {
	in(t, "vm")
	// The first VM makes the kernel patch its scheduler, and the end of the last
	// one does, too. A host that is itself emulated, by a thread a CPU, may run
	// what stood there before, and die of it. While a VM is up nothing is patched.
	name := install(t, spec("well", nil))
	want(t, 0, nil, "start", name)
	all := findings(t)
	for _, check := range []string{"account", "kvm", "hypervisors", "iommu", "module tun", "module vhost_net", "module vhost_vsock", "module macvtap", "module vfio_pci", "virtiofsd", "state directory"} {
		if all[check].Status != "ok" {
			t.Errorf("%s: %+v", check, all[check])
		}
	}
	if got := all["kvm"].Detail; got != "a guest ran its first instruction" {
		t.Errorf("KVM: %q", got)
	}
	sh(t, "udevadm settle && chmod 600 /dev/kvm")
	t.Cleanup(func() { _, _ = try("chmod 660 /dev/kvm") })
	if got := findings(t)["kvm"]; got.Status != "failed" || !strings.Contains(got.Detail, "group kvm may not open") {
		t.Errorf("a KVM that the hypervisors may not open: %+v", got)
	}
}

func TestDoctorFindsLeftoversAndSaysHowToRemoveThem(t *testing.T) {
	in(t, "container")
	sh(t, "ip link add left0 type bridge && ip link set left0 alias 'microvm gone'")
	name := install(t, spec("tidy", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-tidy", 1)}
	}))
	want(t, 0, nil, "start", name)
	got := findings(t)["leftovers"]
	if got.Status != "failed" || got.Remedy != "run: ip link delete left0" || !strings.Contains(got.Detail, "belongs to VM gone, which is not running") {
		t.Errorf("%+v", got)
	}
	sh(t, strings.TrimPrefix(got.Remedy, "run: "))
	if got := findings(t)["leftovers"]; got.Status != "ok" {
		t.Errorf("a running VM's are none: %+v", got)
	}
	want(t, 0, nil, "stop", name)
	nothingLeft(t, name)
}

func TestDoctorSaysWhatBecameOfEachUnitOfAVM(t *testing.T) {
	in(t, "container")
	name := install(t, spec("patient", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-patient", 1)}
	}))
	want(t, 0, nil, "start", name)
	all := findings(t, name)
	for check, text := range map[string]string{
		"package": "for qemu", "hypervisor": "qemu-system", "file kernel": "vmlinuz", "tap interfaces": "/dev/net/tun",
		"unit microvm@patient": "active", "unit microvm-tap-interfaces@patient": "active",
		"unit microvm-pci-devices@patient": "not needed, the package has no PCI devices",
	} {
		if got := all[check]; got.Status != "ok" || !strings.Contains(got.Detail, text) {
			t.Errorf("%s: %+v, want %q", check, got, text)
		}
	}
	// Its guest would go down, and be back at once.
	pid := sh(t, "systemctl show -P MainPID microvm@patient")
	for _, word := range []string{name, "/var/lib/microvms/patient/current"} {
		if out, err := try("cd /var/lib/microvms/patient && microvm shutdown " + word); err == nil || !strings.Contains(out, "patient runs as a service, which would start it again\nmicrovm: hint: stop it with: microvm stop patient") {
			t.Errorf("shutdown %s: %v: %s", word, err, out)
		}
	}
	if got := sh(t, "systemctl show -P MainPID microvm@patient"); got != pid {
		t.Errorf("it ran as process %s, and runs as %s", pid, got)
	}
	want(t, 0, nil, "stop", name)
	// A foreign interface in place of the tap fails the helper.
	eventually(t, 5*time.Second, "ip link add vm-patient type bridge") // the helpers follow the VM
	t.Cleanup(func() { _, _ = try("ip link delete vm-patient") })
	want(t, 1, nil, "start", name)
	// It is down between two tries of its VM; while it is being tried, the VM is what
	// keeps failing.
	got := findings(t, name)["unit microvm-tap-interfaces@patient"]
	for deadline := time.Now().Add(patience); got.Status != "failed" && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		got = findings(t, name)["unit microvm-tap-interfaces@patient"]
	}
	if !strings.Contains(got.Detail, "vm-patient") || !strings.Contains(got.Remedy, "microvm start patient") {
		t.Errorf("%+v", got)
	}
	want(t, 1, []string{"failed", "  hint: ", "failed\nmicrovm: hint: apply the fix"}, "doctor", name)
	want(t, 0, nil, "stop", name)
	want(t, 3, nil, "doctor", "nobody")
}

func TestDoctorFindsAVMThatKeepsFailing(t *testing.T) {
	in(t, "container")
	name := install(t, spec("loops", func(s map[string]any) { s["qemu"] = map[string]any{"extraArgs": []string{"-nonsense"}} }))
	want(t, 1, nil, "start", name)
	eventually(t, 30*time.Second, "test $(systemctl show -P NRestarts microvm@loops) -ge 2")
	if got := findings(t, name)["unit microvm@loops"]; got.Status != "failed" || !strings.HasPrefix(got.Detail, "keeps failing, restarted ") || !strings.Contains(got.Detail, "-nonsense: invalid option") || !strings.Contains(got.Remedy, "microvm stop loops") || !strings.Contains(got.Remedy, "microvm logs loops") {
		t.Errorf("%+v", got)
	}
	want(t, 0, nil, "stop", name)
	// It stays failed where the stop came in the middle of an attempt.
	if got := findings(t, name)["unit microvm@loops"]; strings.HasPrefix(got.Detail, "keeps failing") {
		t.Errorf("one that was stopped: %+v", got)
	}
}
