package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
	"microvm/internal/mounts"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/virtiofsd"
)

// Unit is the state of one of a VM's units, as reported by systemd.
type Unit struct {
	// Active is ActiveState: active, failed, inactive and so on; empty if the unit is not
	// loaded.
	Active string
	// Sub is SubState: auto-restart while the unit waits for its next try, and
	// auto-restart-queued while that waits for its helpers.
	Sub    string
	Result string
	// Restarts is the number of automatic restarts since the last run of at least ten
	// seconds, which resets the count.
	Restarts uint32
	// Skipped reports whether a condition was not met when it was last started.
	Skipped bool
	// Last is its last log lines, if it failed.
	Last []string
}

// KeepsFailing reports whether a VM's unit is in a loop of restarts. A guest that reboots
// is also restarted, but only once: a second restart of a VM that is not up yet means
// that the previous run was short.
func (u Unit) KeepsFailing() bool {
	const twice = 2
	// Between a run that failed and the next one ExecStopPost= cleans up.
	trying := u.Active == "activating" || u.Active == "deactivating" && u.failed()
	return trying && (u.Restarts >= twice || u.Restarts > 0 && strings.HasPrefix(u.Sub, "auto-restart"))
}

// failed reports whether the last run of the unit failed.
func (u Unit) failed() bool { return u.Result != "" && u.Result != "success" }

// TriedAgain reports whether the unit's last start failed and it is being started again,
// as a helper is at each try of its VM.
func (u Unit) TriedAgain() bool {
	return (u.Active == "activating" || u.Active == "deactivating") && u.failed()
}

// ExamineVM checks what a VM needs, and the state of its units. The keys of units are
// templates, such as microvm-tap-interfaces.
func (d *Doctor) ExamineVM(vm statedir.VM, units map[string]Unit) []Finding {
	d.findings = nil
	p, err := vm.Current()
	if err != nil {
		d.wrong("package", err, "install the VM again with: microvm update "+vm.Name+", or install-microvm")
		return d.findings
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		d.wrong("package", err, "rebuild the VM with: microvm update "+vm.Name)
		return d.findings
	}
	d.ok("package", "%s, for %s", p.Dir(), plan.Hypervisor)
	d.program(plan)
	d.files(plan)
	// Without KVM on every host: a guest of another architecture is emulated.
	if plan.KVM == hypervisor.KVMRequired || plan.KVM == hypervisor.KVMWanted && kvm.Runs(plan.Arch) {
		d.kvm()
		if plan.KVM == hypervisor.KVMWanted && d.findings[len(d.findings)-1].Status == Failed {
			d.findings[len(d.findings)-1].Status = Missing // it runs without KVM, slowly
		}
	}
	d.volumes(vm, plan)
	d.interfaces(plan)
	d.bridges(plan)
	d.devices(plan)
	d.shares(plan)
	d.vsock(plan)
	d.compareVM(vm, plan)
	d.memory(plan)
	d.limits(vm, plan)
	d.units(vm, plan, units)
	return d.findings
}

func (d *Doctor) program(plan *hypervisor.Plan) {
	if plan.Foreign {
		d.ok("hypervisor", "started by the package's own bin/microvm-run")
		return
	}
	path, err := foreign.InUnit(plan.Argv[0])
	if err != nil {
		d.failed("hypervisor", notFound(plan.Argv[0], err), "install it, or set its package in the spec")
		return
	}
	if account, err := d.Host.Account(); err == nil {
		if why := accessAs(account, path, unix.X_OK); why != "" {
			d.failed("hypervisor", why, fmt.Sprintf("make it executable and its directories searchable for user %s", d.Host.User))
			return
		}
	}
	d.ok("hypervisor", "%s", path)
	d.compiledFor(plan, path)
}

// notFound returns why a program cannot be executed. It names the program only once.
func notFound(name string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return name + " is not executable"
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return name + " not found"
	}
	return fmt.Sprintf("%s: %v", name, err)
}

// files checks that the hypervisors' user can read the files of the VM.
func (d *Doctor) files(plan *hypervisor.Plan) {
	account, err := d.Host.Account()
	if err != nil {
		d.account()
		return
	}
	for _, f := range plan.Files {
		why := accessAs(account, f.Path, unix.R_OK)
		if why != "" {
			d.failed("file "+f.Role, why, fmt.Sprintf("create it and make it readable for user %s, or correct the spec and update the VM", d.Host.User))
			continue
		}
		d.ok("file "+f.Role, "%s", f.Path)
	}
}

func (d *Doctor) interfaces(plan *hypervisor.Plan) {
	if len(plan.Taps) > 0 {
		d.device("tap interfaces", "dev/net/tun", "tun")
	}
	for _, m := range plan.Macvtaps {
		if _, err := os.Stat(d.path("sys/class/net", m.Link)); err != nil {
			d.failed("macvtap "+m.ID, "interface "+m.Link+" not found", "create it, or correct macvtap.link in the spec")
			continue
		}
		d.ok("macvtap "+m.ID, "on interface %s", m.Link)
	}
}

// volumes checks that the images exist, or can be created at the first start.
func (d *Doctor) volumes(vm statedir.VM, plan *hypervisor.Plan) {
	for _, v := range plan.Volumes {
		path := v.Image
		if !filepath.IsAbs(path) {
			path = filepath.Join(vm.Dir(), path)
		}
		check := "volume " + v.Image
		if _, err := os.Stat(path); err == nil {
			d.ok(check, "%s exists", path)
			continue
		}
		// A symbolic link may lead to a disk that is not mounted. No image is created there.
		if _, err := os.Lstat(path); err == nil || !v.AutoCreate {
			d.failed(check, "image "+path+" not found", "create it, mount its disk, or set autoCreate to true")
			continue
		}
		if d.wrongPlace(vm, check, v.Image, filepath.Dir(path)) {
			continue
		}
		d.ok(check, "will be created at the first start, %d MiB", v.SizeMiB)
	}
}

// wrongPlace reports whether a start would refuse to create an image in dir, because the
// disk of the VM's images is not mounted there.
func (d *Doctor) wrongPlace(vm statedir.VM, check, image, dir string) bool {
	table := mounts.Table{Root: d.path(""), MountInfo: d.path("proc/self/mountinfo")}
	if point, err := table.Missing(dir); err == nil && point != nil {
		d.failed(check, fmt.Sprintf("%s of %s is not mounted, so no image is created below it", point.Dir, point.From), "run: mount "+point.Dir)
		return true
	}
	before, known, err := vm.FileSystemBefore(image)
	if err != nil || !known {
		return false
	}
	if now, err := mounts.Of(dir); err == nil && !now.Same(before) {
		d.failed(check, fmt.Sprintf("%s is on %s, but the VM's images were on %s", dir, now, before),
			"mount the disk with the images, or, to have new ones here, run: rm "+vm.VolumesRecord())
		return true
	}
	return false
}

func (d *Doctor) bridges(plan *hypervisor.Plan) {
	if !plan.Bridge {
		return
	}
	d.bridgeHelper()
	if last := &d.findings[len(d.findings)-1]; last.Status == Missing {
		last.Status = Failed // this VM needs it
	}
	for _, bridge := range plan.Bridges() {
		if _, err := os.Stat(d.path("sys/class/net", bridge, "bridge")); err != nil {
			d.failed("bridge "+bridge, "bridge "+bridge+" not found", fmt.Sprintf("run: ip link add %[1]s type bridge && ip link set %[1]s up, or correct bridge in the spec", bridge))
			continue
		}
		d.ok("bridge "+bridge, "exists")
	}
}

// device checks for a device file that a kernel module creates.
func (d *Doctor) device(check, path, module string) {
	if _, err := os.Stat(d.path(path)); err != nil {
		d.failed(check, "/"+path+" not found", "run: modprobe "+module)
		return
	}
	d.ok(check, "/%s exists", path)
}

func (d *Doctor) devices(plan *hypervisor.Plan) {
	for _, dev := range plan.PCI {
		check, dir := "device "+dev.Address, d.path("sys/bus/pci/devices", dev.Address)
		if _, err := os.Stat(dir); err != nil {
			d.failed(check, "PCI device "+dev.Address+" not found", "find its address with lspci -D, and correct it in the spec")
			continue
		}
		group, err := os.Readlink(filepath.Join(dir, "iommu_group"))
		if err != nil {
			d.failed(check, "the device has no IOMMU group", iommuRemedy)
			continue
		}
		d.ok(check, "in IOMMU group %s", filepath.Base(group))
	}
}

func (d *Doctor) shares(plan *hypervisor.Plan) {
	for _, s := range plan.Shares {
		check := "share " + s.Tag
		path, err := virtiofsd.Locate(s.Virtiofsd)
		if err != nil {
			d.wrong(check, err, "install virtiofsd 1.8 or newer, the one written in Rust")
			continue
		}
		if info, err := os.Stat(s.Source); filepath.IsAbs(s.Source) && err == nil && !info.IsDir() {
			d.failed(check, s.Source+" is not a directory", "correct the share's source in the spec")
			continue
		}
		d.ok(check, "%s, served by %s", s.Source, path)
	}
}

func (d *Doctor) vsock(plan *hypervisor.Plan) {
	if plan.VsockCID == nil {
		return
	}
	const check = "vsock"
	table, err := hypervisor.Table()
	if err == nil && table[plan.Hypervisor].Vsock == "vhost" {
		d.device(check, "dev/vhost-vsock", "vhost_vsock")
		return
	}
	d.ok(check, "CID %d", *plan.VsockCID)
}

func (d *Doctor) memory(plan *hypervisor.Plan) {
	need := plan.HugePagesMiB
	if need == 0 {
		return
	}
	free, kib, err := d.freeHugepages()
	if err != nil || free*kib/1024 < need {
		d.failed("huge pages", fmt.Sprintf("the VM needs %d MiB, but only %d MiB are free", need, free*kib/1024),
			"unless the VM is already running, reserve more with: sysctl vm.nr_hugepages=N")
		return
	}
	d.ok("huge pages", "the VM needs %d MiB, %d MiB are free", need, free*kib/1024)
}

func (d *Doctor) units(vm statedir.VM, plan *hypervisor.Plan, units map[string]Unit) {
	for _, t := range unit.Templates() {
		if !t.Is(unit.Main) {
			d.unit(vm, t, units[t.Name], t.Needs(plan))
		}
	}
	d.unit(vm, unit.Main, units[unit.Main.Name], true)
}

func (d *Doctor) unit(vm statedir.VM, t unit.Template, u Unit, wanted bool) {
	check := "unit " + unit.Short(t.Of(vm.Name))
	helper := !t.Is(unit.Main)
	switch {
	case !helper && u.KeepsFailing():
		detail := fmt.Sprintf("keeps failing, restarted %d times without running for 10 s", u.Restarts)
		if u.failed() { // otherwise a try is under way
			detail += ", last with " + u.Result
		}
		d.failed(check, detail+u.lastLines(), unitRemedy(vm, "or stop it with: microvm stop"))
	case helper && u.TriedAgain():
		d.failed(check, "failed with "+u.Result+", and systemd will try again"+u.lastLines(), unitRemedy(vm, "or stop it with: microvm stop"))
	case u.Active == "failed":
		d.failed(check, "failed with "+u.Result+u.lastLines(), unitRemedy(vm, "then start it with: microvm start"))
	case !wanted:
		d.ok(check, "not needed, the package has no %s", t.What)
	case u.Skipped:
		d.failed(check, "skipped: only the installed package has "+t.What+", not the one that was booted", "run: microvm restart "+vm.Name)
	case helper && !t.Is(unit.SetBooted) && !d.pulledIn(vm, t):
		d.failed(check, "needed, but no unit pulls it in", "run: install-microvm --relink")
	case u.Active == "" || u.Active == "inactive":
		d.ok(check, "not started")
	default:
		d.ok(check, "%s", u.Active)
	}
}

// unitRemedy returns the remedy for a unit that failed. then is a microvm command, with
// what it is for, and lacks only the VM's name.
func unitRemedy(vm statedir.VM, then string) string {
	return fmt.Sprintf("fix the cause (see: microvm logs %[1]s), %[2]s %[1]s", vm.Name, then)
}

// lastLines returns the last log lines as the end of a detail, or "".
func (u Unit) lastLines() string {
	if len(u.Last) == 0 {
		return ""
	}
	return ": " + strings.Join(u.Last, "; ")
}

// pulledIn reports whether the VM's unit wants a helper, by a link or in a drop-in of the
// installation or of the host's configuration.
func (d *Doctor) pulledIn(vm statedir.VM, t unit.Template) bool {
	helper := t.Of(vm.Name)
	for _, dir := range []string{d.Host.UnitDir, d.path("etc/systemd/system"), d.path("run/systemd/system")} {
		of := filepath.Join(dir, unit.VM(vm.Name))
		for _, links := range []string{".wants", ".requires"} {
			if _, err := os.Lstat(filepath.Join(of+links, helper)); err == nil {
				return true
			}
		}
		dropIns, _ := filepath.Glob(filepath.Join(of+".d", "*.conf"))
		for _, path := range dropIns {
			if data, err := os.ReadFile(path); err == nil && wants(string(data), helper) {
				return true
			}
		}
	}
	return false
}

// wants reports whether the text of a drop-in pulls a unit in, systemd.unit(5).
func wants(dropIn, name string) bool {
	for line := range strings.Lines(dropIn) {
		key, value, _ := strings.Cut(line, "=")
		if key := strings.TrimSpace(key); (key == "Wants" || key == "Requires") && slices.Contains(strings.Fields(value), name) {
			return true
		}
	}
	return false
}
