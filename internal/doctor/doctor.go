// Package doctor checks a host and its VMs for what keeps them from running, and returns
// how to fix it.
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

// Status of a finding.
const (
	OK = "ok"
	// Missing is something that only some VMs need.
	Missing = "missing"
	Failed  = "failed"
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	// Status is ok, missing or failed.
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Remedy is how to fix it; empty if Status is OK.
	Remedy string `json:"remedy,omitempty"`
}

// Doctor checks a host.
type Doctor struct {
	Host statedir.Host
	// Root is prepended to the host's paths; empty outside of tests.
	Root string
	// LibexecDir holds the helper programs.
	LibexecDir string
	// Active reports whether a VM is running, by systemd or in the foreground.
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

// wrong is failed for an error. The hints of the error take the place of remedy.
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

const kvmRemedy = "load kvm_intel or kvm_amd, and enable virtualization in the firmware, or nesting in the hypervisor of this machine (without KVM, QEMU emulates guests slowly)"

func (d *Doctor) kvm() {
	device := d.path(kvm.Device)
	// Before the probe, because a VM that starts or exits causes an event, at which udev
	// sets the mode again.
	info, statErr := os.Stat(device)
	err := kvm.Probe(device)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.failed("kvm", fmt.Sprintf("%v", err), "run microvm doctor with sudo")
		return
	case err != nil:
		d.failed("kvm", fmt.Sprintf("KVM is not usable: %v", err), kvmRemedy)
		return
	}
	account, accountErr := d.Host.Account()
	if statErr == nil && accountErr == nil && !allows(info, -1, []int{account.GID}, 0o6) {
		d.failed("kvm", fmt.Sprintf("KVM works, but group %s may not open %s", d.Host.Group, kvm.Device),
			fmt.Sprintf("install 60-microvm.rules in /usr/lib/udev/rules.d, then run: udevadm trigger --name-match=%s", kvm.Device))
		return
	}
	d.ok("kvm", "a guest ran its first instruction")
}

// allows reports whether a file mode gives a user with those groups all bits of want,
// which are those of rwx. uid -1 is a user who owns no files.
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
		d.missing("hypervisors", "no hypervisor in the PATH of units (packages can bring their own)", "install one, such as qemu-system-x86 or qemu-kvm")
		return
	}
	d.ok("hypervisors", "%s", strings.Join(found, ", "))
}

// iommuRemedy is how to get IOMMU groups.
const iommuRemedy = "enable VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on"

func (d *Doctor) iommu() {
	groups, err := os.ReadDir(d.path("sys/kernel/iommu_groups"))
	if err != nil || len(groups) == 0 {
		d.missing("iommu", "no IOMMU groups, so devices cannot be passed through",
			"to pass devices through, "+iommuRemedy)
		return
	}
	d.ok("iommu", "%d groups", len(groups))
}

// modules checks for kernel modules, by the device files and directories that they create.
func (d *Doctor) modules() {
	for _, m := range []struct{ name, path, what string }{
		{"tun", "dev/net/tun", "tap interfaces"},
		{"vhost_net", "dev/vhost-net", "tap.vhost"},
		{"vhost_vsock", "dev/vhost-vsock", "vsock under QEMU: readiness reported by the guest, microvm ssh"},
	} {
		if _, err := os.Stat(d.path(m.path)); err != nil {
			d.missing("module "+m.name, "/"+m.path+" not found (needed for "+m.what+")", "run: modprobe "+m.name)
			continue
		}
		d.ok("module "+m.name, "/%s exists", m.path)
	}
	for _, m := range []struct{ name, what string }{{"macvtap", "macvtap interfaces"}, {"vfio_pci", "PCI devices"}} {
		if _, err := os.Stat(d.path("sys/module", m.name)); err == nil {
			d.ok("module "+m.name, "loaded")
			continue
		}
		// The helpers load these when a VM needs them.
		if !hasModule(m.name) {
			d.missing("module "+m.name, "not available for this kernel (needed for "+m.what+")", "install the package with the kernel's extra modules, if a VM needs it")
			continue
		}
		d.ok("module "+m.name, "will be loaded when a VM needs it")
	}
}

func (d *Doctor) virtiofsd() {
	path, err := virtiofsd.Locate("")
	if err != nil {
		d.missing("virtiofsd", err.Error(), "for virtiofs shares, install virtiofsd 1.8 or newer, the one written in Rust")
		return
	}
	d.ok("virtiofsd", "%s%s", path, version(path))
}

// askLimit is how long a program that the doctor runs may take.
const askLimit = 10 * time.Second

// hasModule reports whether the kernel has a module, according to modinfo(8).
func hasModule(name string) bool {
	path, err := foreign.InUnit("modinfo")
	if err != nil {
		return false
	}
	cmd := foreign.Command{Path: path, Args: []string{name}, Limit: askLimit}
	_, _, err = cmd.Run(context.Background())
	return err == nil
}

// version returns the first line of a program's --version, in parentheses and after a
// blank, or "" if it fails.
func version(path string) string {
	cmd := foreign.Command{Path: path, Args: []string{"--version"}, As: foreign.As(path, nil), Apart: true, Limit: askLimit}
	out, _, err := cmd.Run(context.Background())
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(printable.Text(string(out)), "\n")
	return " (" + line + ")"
}

// bridgeHelpers are the paths of QEMU's bridge helper on various distributions. On NixOS
// it is a setuid wrapper.
var bridgeHelpers = []string{"usr/lib/qemu/qemu-bridge-helper", "usr/libexec/qemu-bridge-helper", "run/wrappers/bin/qemu-bridge-helper"}

func (d *Doctor) bridgeHelper() {
	const check = "bridge helper"
	for _, place := range bridgeHelpers {
		info, err := os.Stat(d.path(place))
		if err != nil {
			continue
		}
		if size, err := unix.Getxattr(d.path(place), "security.capability", nil); info.Mode()&fs.ModeSetuid == 0 && (err != nil || size == 0) {
			d.missing(check, "/"+place+" is not setuid root", "for interfaces of type bridge, run: chmod u+s /"+place)
			return
		}
		if _, err := os.Stat(d.path("etc/qemu/bridge.conf")); err != nil {
			d.missing(check, "/etc/qemu/bridge.conf not found", "for interfaces of type bridge, create it with the line: allow BRIDGE")
			return
		}
		d.ok(check, "/%s", place)
		return
	}
	d.missing(check, "qemu-bridge-helper not found", "for interfaces of type bridge, install QEMU (type tap needs no helper)")
}

func (d *Doctor) hugepages() {
	free, size, err := d.freeHugepages()
	switch {
	case err != nil:
		d.missing("huge pages", err.Error(), "for hugepageMem, boot a kernel with huge pages")
	case free == 0:
		d.missing("huge pages", "none free", "for hugepageMem, reserve some with: sysctl vm.nr_hugepages=N")
	default:
		d.ok("huge pages", "%d of %d KiB free, %d MiB", free, size, free*size/1024)
	}
}

// freeHugepages returns the number of free huge pages, and their size in KiB,
// proc_meminfo(5).
func (d *Doctor) freeHugepages() (free, kib int, err error) {
	data, err := os.ReadFile(d.path("proc/meminfo"))
	if err != nil {
		return 0, 0, fmt.Errorf("read the number of free huge pages: %w", err)
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
		return 0, 0, errors.New("not supported by this kernel")
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
		d.failed(check, dir+" is writable by non-root users, so VMs could replace each other", "run: chown root:root "+dir+"; chmod 755 "+dir)
		return
	}
	names, err := d.Host.Names()
	if err != nil {
		d.wrong(check, err, "make "+dir+" readable by root")
		return
	}
	bad := 0
	for _, name := range names {
		vm := filepath.Join(dir, name)
		info, err := os.Lstat(vm)
		if err != nil || !ownedBy(info, 0) || info.Mode()&fs.ModeSticky == 0 {
			bad++
			d.failed(check, vm+" is not owned by root or not sticky, so its VM could replace files that root reads", "install the VM again, or run: chown root:"+d.Host.Group+" "+vm+"; chmod 1775 "+vm)
		}
		for _, link := range []string{"current", "booted", "old"} {
			info, err := os.Lstat(filepath.Join(vm, link))
			if err == nil && (!ownedBy(info, 0) || info.Mode()&fs.ModeSymlink == 0) {
				bad++
				d.failed(check, filepath.Join(vm, link)+" is not a symbolic link owned by root, so it is not trusted", "find out who created it, remove it, and install the VM again")
			}
		}
	}
	if bad == 0 {
		d.ok(check, "%s is owned by root, %d VMs", dir, len(names))
	}
}

func ownedBy(info fs.FileInfo, uid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid
}

// stale looks for leftovers of VMs that are not running.
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
			d.failed(check, fmt.Sprintf("interface %s belongs to VM %s, which is not running", name, vm), "run: ip link delete "+name)
		}
	}
	entries, err := os.ReadDir(d.Host.RuntimeDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.wrong(check, err, "run microvm doctor with sudo")
	}
	for _, e := range entries {
		vm, err := d.Host.VM(e.Name())
		if err != nil || d.Active(vm.Name) {
			continue
		}
		records, _ := filepath.Glob(filepath.Join(vm.RuntimeDir(), "*.json"))
		for _, record := range records {
			found++
			remedy := "run: rm " + record
			if t, ok := unit.ByRecord(strings.TrimSuffix(filepath.Base(record), ".json")); ok {
				remedy = fmt.Sprintf("run: %s down %s", filepath.Join(d.LibexecDir, t.Program), vm.Name)
			}
			d.failed(check, fmt.Sprintf("%s is a record of VM %s, which is not running", record, vm.Name), remedy)
		}
	}
	if found == 0 {
		d.ok(check, "none: no interfaces or records of VMs that are not running")
	}
}
