package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
	"microvm/test/need"
)

// newDoctor returns a Doctor of a host that consists of the given files, by path.
func newDoctor(t *testing.T, files map[string]string) *Doctor {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Doctor{
		Root: root, LibexecDir: "/usr/lib/microvm", Active: func(string) bool { return false },
		Host: statedir.Host{StateDir: filepath.Join(root, "state"), RuntimeDir: filepath.Join(root, "run/microvm"), UnitDir: filepath.Join(root, "units"), User: "nobody", Group: "nogroup"},
	}
}

// expect checks that one of the findings is as wanted, and that those that are not OK, and
// only those, have a remedy.
func (d *Doctor) expect(t *testing.T, check, status, text string) {
	t.Helper()
	found := false
	for _, f := range d.findings {
		if (f.Status == OK) != (f.Remedy == "") {
			t.Errorf("%+v: a remedy, where something is to be done and only there", f)
		}
		found = found || f.Check == check && f.Status == status && strings.Contains(f.Detail+" hint: "+f.Remedy, text)
	}
	if !found {
		t.Errorf("no finding is %q of %q with %q: %+v", status, check, text, d.findings)
	}
}

func TestHostWithNothingSaysWhatToDoAboutAll(t *testing.T) {
	d := newDoctor(t, nil)
	d.Examine()
	d.expect(t, "kvm", Failed, "load kvm_intel or kvm_amd")
	d.expect(t, "iommu", Missing, "intel_iommu=on")
	d.expect(t, "module tun", Missing, "modprobe tun")
	d.expect(t, "module vhost_vsock", Missing, "modprobe vhost_vsock")
	d.expect(t, "bridge helper", Missing, "install QEMU")
	d.expect(t, "huge pages", Missing, "proc/meminfo")
	d.expect(t, "state directory", Failed, "systemd-tmpfiles --create")
	d.expect(t, "leftovers", OK, "none")
}

func TestHostWithEverythingIsWell(t *testing.T) {
	d := newDoctor(t, map[string]string{
		"dev/net/tun": "", "dev/vhost-net": "", "dev/vhost-vsock": "",
		"sys/kernel/iommu_groups/0/type": "DMA", "sys/module/macvtap/x": "", "sys/module/vfio_pci/x": "",
		"proc/meminfo":                    "HugePages_Free:      512\nHugepagesize:       2048 kB\n",
		"usr/lib/qemu/qemu-bridge-helper": "", "etc/qemu/bridge.conf": "allow br0\n",
	})
	if err := os.Chmod(d.path("usr/lib/qemu/qemu-bridge-helper"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	d.Examine()
	for _, check := range []string{"account", "iommu", "module tun", "module vhost_net", "module vhost_vsock", "module macvtap", "module vfio_pci", "bridge helper"} {
		d.expect(t, check, OK, "")
	}
	d.expect(t, "huge pages", OK, "1024 MiB")
}

func TestBridgeHelperWithoutRightsIsNamed(t *testing.T) {
	d := newDoctor(t, map[string]string{"usr/libexec/qemu-bridge-helper": ""})
	d.bridgeHelper()
	d.expect(t, "bridge helper", Missing, "chmod u+s /usr/libexec/qemu-bridge-helper")
}

func TestRecordOfAVMThatIsNotUpIsALeftover(t *testing.T) {
	d := newDoctor(t, map[string]string{"run/microvm/web/tap-interfaces.json": "{}", "run/microvm/up/tap-interfaces.json": "{}"})
	d.Active = func(vm string) bool { return vm == "up" }
	d.stale()
	d.expect(t, "leftovers", Failed, "/usr/lib/microvm/microvm-tap-interfaces down web")
	if len(d.findings) != 1 {
		t.Errorf("%+v", d.findings)
	}
}

func TestStateDirectoryThatIsNotRootsIsRefused(t *testing.T) {
	d := newDoctor(t, map[string]string{"state/web/current": "a file"})
	if err := os.Chmod(d.Host.StateDir, 0o777); err != nil {
		t.Fatal(err)
	}
	d.stateDir()
	d.expect(t, "state directory", Failed, "chmod 755")
	t.Run("of root", func(t *testing.T) {
		need.Root(t)
		d.findings = nil
		if err := os.Chmod(d.Host.StateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		d.stateDir()
		d.expect(t, "state directory", Failed, "chmod 1775")
		d.expect(t, "state directory", Failed, "is not a symbolic link owned by root")
	})
}

func TestEachPartOfAPlanIsChecked(t *testing.T) {
	d := newDoctor(t, map[string]string{"sys/class/net/eth0/x": "", "proc/meminfo": "HugePages_Free: 10\nHugepagesize: 2048 kB\n", "sys/bus/pci/devices/0000:01:00.0/vendor": "",
		"sys/class/net/br0/bridge/x": "", "usr/lib/qemu/qemu-bridge-helper": "", "state/web/there.img": ""})
	plan := &hypervisor.Plan{
		Hypervisor: "qemu", Argv: []string{"no-such-hypervisor"}, HugePagesMiB: 256,
		Files:    []hypervisor.File{{Role: "kernel", Path: d.path("vmlinuz")}},
		Macvtaps: []hypervisor.Macvtap{{ID: "mv0", Link: "eth0"}, {ID: "mv1", Link: "eth9"}},
		PCI:      []hypervisor.PCI{{Address: "0000:01:00.0"}, {Address: "0000:02:00.0"}},
		Taps:     []hypervisor.Tap{{ID: "vm-web"}},
		Volumes: []hypervisor.Volume{
			{Image: "there.img"}, {Image: "gone.img"}, {Image: "linked.img", AutoCreate: true, SizeMiB: 64}, {Image: "new.img", AutoCreate: true, SizeMiB: 64},
		},
		Bridge:     true,
		Interfaces: []hypervisor.Interface{{Type: "bridge", Bridge: "br0"}, {Type: "bridge", Bridge: "br9"}, {Type: "user"}},
	}
	vm := statedir.VM{Host: d.Host, Name: "web"}
	if err := os.Symlink("/no/such/disk/linked.img", filepath.Join(vm.Dir(), "linked.img")); err != nil {
		t.Fatal(err)
	}
	d.open(t)
	d.program(plan)
	d.files(plan)
	d.volumes(vm, plan)
	d.bridges(plan)
	d.interfaces(plan)
	d.devices(plan)
	d.memory(plan)
	d.expect(t, "hypervisor", Failed, "install it")
	d.expect(t, "file kernel", Failed, "vmlinuz not found")
	d.expect(t, "volume there.img", OK, "there.img exists")
	d.expect(t, "volume gone.img", Failed, "autoCreate")
	d.expect(t, "volume linked.img", Failed, "mount its disk")
	d.expect(t, "volume new.img", OK, "64 MiB")
	d.expect(t, "bridge helper", Failed, "chmod u+s")
	d.expect(t, "bridge br0", OK, "")
	d.expect(t, "bridge br9", Failed, "ip link add br9 type bridge")
	d.expect(t, "macvtap mv0", OK, "eth0")
	d.expect(t, "macvtap mv1", Failed, "eth9")
	d.expect(t, "tap interfaces", Failed, "modprobe tun")
	d.expect(t, "device 0000:01:00.0", Failed, "has no IOMMU group")
	d.expect(t, "device 0000:02:00.0", Failed, "PCI device 0000:02:00.0 not found")
	d.expect(t, "huge pages", Failed, "needs 256 MiB, but only 20 MiB are free")
}

func TestFileThatTheHypervisorsMayNotReadIsNamed(t *testing.T) {
	d := newDoctor(t, map[string]string{"images/vmlinuz": "", "open/vmlinuz": ""})
	if err := os.Chmod(d.path("images"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path := d.Root; path != "/"; path = filepath.Dir(path) {
		_ = os.Chmod(path, 0o755|os.ModeSticky)
		if filepath.Dir(path) == os.TempDir() {
			break
		}
	}
	const nobody = 65534
	if why := unreadable(d.path("images/vmlinuz"), nobody, []int{nobody}); !strings.Contains(why, "images is not searchable by the hypervisors' user") {
		t.Errorf("%q", why)
	}
	if why := unreadable(d.path("open/vmlinuz"), nobody, []int{nobody}); why != "" {
		t.Errorf("%q", why)
	}
	if err := os.Chmod(d.path("open/vmlinuz"), 0o600); err != nil {
		t.Fatal(err)
	}
	if why := unreadable(d.path("open/vmlinuz"), nobody, []int{nobody}); !strings.Contains(why, "is not readable by") {
		t.Errorf("%q", why)
	}
}

func TestEachUnitSaysWhyItDoesNotRun(t *testing.T) {
	d := newDoctor(t, map[string]string{"units/microvm@web.service.requires/microvm-tap-interfaces@web.service": ""})
	vm, err := d.Host.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	plan := &hypervisor.Plan{Taps: []hypervisor.Tap{{ID: "vm-web"}}, Macvtaps: []hypervisor.Macvtap{{ID: "mv"}}}
	d.units(vm, plan, map[string]Unit{
		"microvm":                {Active: "failed", Result: "exit-code", Last: []string{"no kernel"}},
		"microvm-tap-interfaces": {Active: "inactive", Skipped: true},
	})
	d.expect(t, "unit microvm@web", Failed, "exit-code: no kernel")
	d.expect(t, "unit microvm-tap-interfaces@web", Failed, "microvm restart web")
	d.expect(t, "unit microvm-macvtap-interfaces@web", Failed, "no unit pulls it in")
	d.expect(t, "unit microvm-virtiofsd@web", OK, "not needed, the package has no virtiofs shares")
	d.expect(t, "unit microvm-set-booted@web", OK, "not started")
	d.expect(t, "unit microvm-machined@web", OK, "not needed, the package has no registration with systemd-machined")
	for what, u := range map[string]Unit{
		"a try that waits":               {Active: "activating", Sub: "auto-restart", Result: "exit-code", Restarts: 1, Last: []string{"no kernel"}},
		"a try under way":                {Active: "activating", Sub: "start", Result: "success", Restarts: 7},
		"one that waits for its helpers": {Active: "activating", Sub: "auto-restart-queued", Result: "exit-code", Restarts: 1, Last: []string{"no kernel"}},
		"one that is cleaned up":         {Active: "deactivating", Sub: "stop-post", Result: "exit-code", Restarts: 2, Last: []string{"no kernel"}},
		"one that ends well":             {Active: "activating", Sub: "auto-restart", Result: "success", Restarts: 3},
	} {
		t.Log(what)
		d.units(vm, plan, map[string]Unit{"microvm": u})
		d.expect(t, "unit microvm@web", Failed, fmt.Sprintf("keeps failing, restarted %d times", u.Restarts))
		d.expect(t, "unit microvm@web", Failed, "microvm stop web")
		if u.Last != nil {
			d.expect(t, "unit microvm@web", Failed, "last with exit-code: no kernel")
		}
	}
	for what, u := range map[string]Unit{
		"a first start":          {Active: "activating", Sub: "start", Result: "success"},
		"a first crash":          {Active: "activating", Sub: "auto-restart", Result: "exit-code"},
		"a guest that reboots":   {Active: "activating", Sub: "start", Result: "success", Restarts: 1},
		"a guest that goes down": {Active: "deactivating", Sub: "stop-sigterm", Result: "success", Restarts: 4},
		"a guest that rebooted":  {Active: "active", Sub: "running", Result: "success", Restarts: 4},
	} {
		t.Log(what)
		d.units(vm, plan, map[string]Unit{"microvm": u})
		d.expect(t, "unit microvm@web", OK, u.Active)
	}
	plan.Machined = &hypervisor.Machined{}
	d.units(vm, plan, nil)
	d.expect(t, "unit microvm-machined@web", Failed, "no unit pulls it in")
}
