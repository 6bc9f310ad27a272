// Package doctor finds out why VMs would not run on a host, and what to do
// about each thing that is wrong.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/kvm"
	"microvm/internal/netif"
	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/virtiofsd"
)

// What a check found.
const (
	OK = "ok"
	// Missing is what only some VMs need.
	Missing = "missing"
	Failed  = "failed"
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	// Status is ok, missing or failed.
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Remedy says what to do; empty where all is well.
	Remedy string `json:"remedy,omitempty"`
}

// Doctor examines a host.
type Doctor struct {
	Host statedir.Host
	// Root is before every path of the host's; empty outside of tests.
	Root string
	// LibexecDir holds the helper programs.
	LibexecDir string
	// Active says whether systemd, or somebody by hand, runs a VM.
	Active func(vm string) bool

	findings []Finding
}

func (d *Doctor) path(elem ...string) string {
	return filepath.Join(append([]string{d.Root, "/"}, elem...)...)
}

func (d *Doctor) ok(check, format string, args ...any) {
	d.findings = append(d.findings, Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (d *Doctor) missing(check, detail, remedy string) {
	d.findings = append(d.findings, Finding{check, Missing, detail, remedy})
}

func (d *Doctor) failed(check, detail, remedy string) {
	d.findings = append(d.findings, Finding{check, Failed, detail, remedy})
}

// wrong is failed for an error: its own remedy is better than ours.
func (d *Doctor) wrong(check string, err error, remedy string) {
	if hint := exit.Hint(err); hint != "" {
		remedy = strings.ReplaceAll(hint, "\n", "; ")
	}
	d.failed(check, err.Error(), remedy)
}

// Examine checks the host.
func (d *Doctor) Examine() []Finding {
	d.findings = nil
	d.account()
	d.kvm()
	d.hypervisors()
	d.iommu()
	d.modules()
	d.virtiofsd()
	d.bridgeHelper()
	d.hugepages()
	d.stateDir()
	d.stale()
	d.compareVMs()
	return d.findings
}

func (d *Doctor) account() {
	if _, err := d.Host.Account(); err != nil {
		d.wrong("account", err, "run: systemd-sysusers")
		return
	}
	d.ok("account", "hypervisors run as user %s, group %s", d.Host.User, d.Host.Group)
}

const kvmRemedy = "load kvm_intel or kvm_amd; turn virtualization on in the firmware, or nesting on in the hypervisor that runs this machine; QEMU does without, and emulates its guests slowly"

func (d *Doctor) kvm() {
	device := d.path(kvm.Device)
	// Looked at first: a VM that comes or goes is an event, at which udev sets the
	// mode anew.
	info, statErr := os.Stat(device)
	err := kvm.Probe(device)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.failed("kvm", fmt.Sprintf("%v", err), "run it with sudo, to see whether KVM works")
		return
	case err != nil:
		d.failed("kvm", fmt.Sprintf("KVM is not usable: %v", err), kvmRemedy)
		return
	}
	account, accountErr := d.Host.Account()
	if statErr == nil && accountErr == nil && !allows(info, -1, []int{account.GID}, 0o6) {
		d.failed("kvm", fmt.Sprintf("it works, but group %s may not open %s", d.Host.Group, kvm.Device),
			fmt.Sprintf("let udev give it to the group: udevadm trigger --name-match=%s, with 60-microvm.rules in /usr/lib/udev/rules.d", kvm.Device))
		return
	}
	d.ok("kvm", "a guest ran its first instruction")
}

// allows says whether the mode lets a user of those groups do all of want, as
// of rwx; uid -1 owns nothing.
func allows(info fs.FileInfo, uid int, gids []int, want fs.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	switch {
	case uid == 0:
		return true
	case int(st.Uid) == uid:
		mode >>= 6
	case slices.Contains(gids, int(st.Gid)):
		mode >>= 3
	}
	return mode&want == want
}

func (d *Doctor) hypervisors() {
	var found []string
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64", "cloud-hypervisor", "firecracker", "crosvm", "lkvm", "stratovirt", "alioth"} {
		if _, err := foreign.InUnit(name); err == nil {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		d.missing("hypervisors", "none is where units look; VMs whose packages bring their own run all the same", "install one, such as qemu-system-x86 or qemu-kvm")
		return
	}
	d.ok("hypervisors", "%s", strings.Join(found, ", "))
}

func (d *Doctor) iommu() {
	groups, err := os.ReadDir(d.path("sys/kernel/iommu_groups"))
	if err != nil || len(groups) == 0 {
		d.missing("iommu", "there are no IOMMU groups, so no device can be passed through",
			"for devices: turn VT-d or AMD-Vi on in the firmware, and on Intel boot with intel_iommu=on")
		return
	}
	d.ok("iommu", "%d groups", len(groups))
}

// modules checks what the kernel has by what it lets us use.
func (d *Doctor) modules() {
	for _, m := range []struct{ name, path, what string }{
		{"tun", "dev/net/tun", "tap interfaces"},
		{"vhost_net", "dev/vhost-net", "tap.vhost"},
		{"vhost_vsock", "dev/vhost-vsock", "vsock under QEMU: readiness by the guest, microvm ssh"},
	} {
		if _, err := os.Stat(d.path(m.path)); err != nil {
			d.missing("module "+m.name, "there is no /"+m.path+"; it is for "+m.what, "run: modprobe "+m.name)
			continue
		}
		d.ok("module "+m.name, "/%s is there", m.path)
	}
	for _, m := range []struct{ name, what string }{{"macvtap", "macvtap interfaces"}, {"vfio_pci", "PCI devices"}} {
		if _, err := os.Stat(d.path("sys/module", m.name)); err == nil {
			d.ok("module "+m.name, "is loaded")
			continue
		}
		// The helpers load these when a VM needs them.
		if !hasModule(m.name) {
			d.missing("module "+m.name, "this kernel has none; it is for "+m.what, "install the kernel's package of further modules, if a VM needs it")
			continue
		}
		d.ok("module "+m.name, "is loaded when a VM needs it")
	}
}

func (d *Doctor) virtiofsd() {
	path, err := virtiofsd.Locate("")
	if err != nil {
		d.missing("virtiofsd", err.Error(), "for virtiofs shares: install virtiofsd 1.8 or newer, the one that is written in Rust")
		return
	}
	d.ok("virtiofsd", "%s%s", path, version(path))
}

// askLimit is how long a program may take that the doctor asks.
const askLimit = 10 * time.Second

// hasModule says whether the kernel's modules are known to have that one.
func hasModule(name string) bool {
	path, err := foreign.InUnit("modinfo")
	if err != nil {
		return false
	}
	cmd := foreign.Command{Path: path, Args: []string{name}, Limit: askLimit}
	_, _, err = cmd.Run(context.Background())
	return err == nil
}

// version is what a program says it is, in brackets.
func version(path string) string {
	cmd := foreign.Command{Path: path, Args: []string{"--version"}, As: foreign.As(path, nil), Apart: true, Limit: askLimit}
	out, _, err := cmd.Run(context.Background())
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(printable.Text(string(out)), "\n")
	return " (" + line + ")"
}

// bridgeHelpers are where distributions put it; NixOS's gains its rights by a
// wrapper.
var bridgeHelpers = []string{"usr/lib/qemu/qemu-bridge-helper", "usr/libexec/qemu-bridge-helper", "run/wrappers/bin/qemu-bridge-helper"}

func (d *Doctor) bridgeHelper() {
	const check = "bridge helper"
	for _, place := range bridgeHelpers {
		info, err := os.Stat(d.path(place))
		if err != nil {
			continue
		}
		if size, err := unix.Getxattr(d.path(place), "security.capability", nil); info.Mode()&fs.ModeSetuid == 0 && (err != nil || size == 0) {
			d.missing(check, "/"+place+" may not make interfaces", "for interfaces of type bridge: chmod u+s /"+place)
			return
		}
		if _, err := os.Stat(d.path("etc/qemu/bridge.conf")); err != nil {
			d.missing(check, "/etc/qemu/bridge.conf allows no bridge", "for interfaces of type bridge: write \"allow BRIDGE\" into it")
			return
		}
		d.ok(check, "/%s", place)
		return
	}
	d.missing(check, "qemu-bridge-helper is not installed", "for interfaces of type bridge: install QEMU; type tap needs no helper")
}

func (d *Doctor) hugepages() {
	free, size, err := d.freeHugepages()
	switch {
	case err != nil:
		d.missing("huge pages", err.Error(), "for hugepageMem: boot a kernel with huge pages")
	case free == 0:
		d.missing("huge pages", "none is free", "for hugepageMem: reserve some with sysctl vm.nr_hugepages=N")
	default:
		d.ok("huge pages", "%d of %d KiB are free, %d MiB", free, size, free*size/1024)
	}
}

// freeHugepages is how many are free, and the size of each in KiB,
// proc_meminfo(5).
func (d *Doctor) freeHugepages() (free, kib int, err error) {
	data, err := os.ReadFile(d.path("proc/meminfo"))
	if err != nil {
		return 0, 0, fmt.Errorf("read how many huge pages are free: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "HugePages_Free:":
			free = n
		case "Hugepagesize:":
			kib = n
		}
	}
	if kib == 0 {
		return 0, 0, errors.New("this kernel has no huge pages")
	}
	return free, kib, nil
}

func (d *Doctor) stateDir() {
	const check = "state directory"
	dir, err := d.Host.RealStateDir()
	if err != nil {
		d.wrong(check, err, "")
		return
	}
	info, err := os.Lstat(dir)
	if err != nil {
		d.wrong(check, err, "run: systemd-tmpfiles --create")
		return
	}
	if !ownedBy(info, 0) || info.Mode().Perm()&0o022 != 0 || !info.IsDir() {
		d.failed(check, dir+" is not root's alone, so that VMs could replace each other", "run: chown root:root "+dir+"; chmod 755 "+dir)
		return
	}
	names, err := d.Host.Names()
	if err != nil {
		d.wrong(check, err, "let root read "+dir)
		return
	}
	bad := 0
	for _, name := range names {
		vm := filepath.Join(dir, name)
		info, err := os.Lstat(vm)
		if err != nil || !ownedBy(info, 0) || info.Mode()&fs.ModeSticky == 0 {
			bad++
			d.failed(check, vm+" is not root's, or not sticky, so that its VM could replace what root reads", "install the VM again, or run: chown root:"+d.Host.Group+" "+vm+"; chmod 1775 "+vm)
		}
		for _, link := range []string{"current", "booted", "old"} {
			info, err := os.Lstat(filepath.Join(vm, link))
			if err == nil && (!ownedBy(info, 0) || info.Mode()&fs.ModeSymlink == 0) {
				bad++
				d.failed(check, filepath.Join(vm, link)+" is not a link of root's, so nobody trusts it", "remove it and install the VM again; find out who made it")
			}
		}
	}
	if bad == 0 {
		d.ok(check, "%s is root's, with %d VMs", dir, len(names))
	}
}

func ownedBy(info fs.FileInfo, uid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid
}

// stale looks for what VMs that are not up have left.
func (d *Doctor) stale() {
	const check = "leftovers"
	found := 0
	marked, err := netif.Marked()
	if err != nil {
		d.wrong(check, err, "try again")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(marked)) {
		if vm := marked[name]; !d.Active(vm) {
			found++
			d.failed(check, fmt.Sprintf("interface %s is VM %s's, which is not up", name, vm), "run: ip link delete "+name)
		}
	}
	entries, err := os.ReadDir(d.Host.RuntimeDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.wrong(check, err, "run it with sudo")
	}
	for _, e := range entries {
		vm, err := d.Host.VM(e.Name())
		if err != nil || d.Active(vm.Name) {
			continue
		}
		records, _ := filepath.Glob(filepath.Join(vm.RuntimeDir(), "*.json"))
		for _, record := range records {
			found++
			remedy := "remove it: rm " + record
			if t, ok := unit.ByRecord(strings.TrimSuffix(filepath.Base(record), ".json")); ok {
				remedy = fmt.Sprintf("take it back with: %s down %s", filepath.Join(d.LibexecDir, t.Program), vm.Name)
			}
			d.failed(check, fmt.Sprintf("%s says that VM %s has something, and it is not up", record, vm.Name), remedy)
		}
	}
	if found == 0 {
		d.ok(check, "none: no interface and no record of a VM that is not up")
	}
}
