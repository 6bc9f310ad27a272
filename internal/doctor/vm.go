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

// Unit is what systemd knows of one of a VM's units.
type Unit struct {
	// Active is systemd's word: active, failed, inactive and so on; empty where
	// the unit is not loaded.
	Active string
	// Sub is systemd's finer word: auto-restart while it waits for its next try, and
	// auto-restart-queued while that waits for its helpers.
	Sub    string
	Result string
	// Restarts is how often systemd has started it again by itself since its count
	// was last reset, which a run of ten seconds does.
	Restarts uint32
	// Skipped says that its condition was not met when it was last started.
	Skipped bool
	// Last is what it logged last, where it failed.
	Last []string
}

// KeepsFailing says whether a VM's unit is in a loop of restarts. A guest that
// reboots is restarted as well, once; a second restart in a row, of a VM that is
// not up, is one of a run that was short.
func (u Unit) KeepsFailing() bool {
	const twice = 2
	// Between a run that failed and its next try there is what cleans up after it.
	trying := u.Active == "activating" || u.Active == "deactivating" && u.failed()
	return trying && (u.Restarts >= twice || u.Restarts > 0 && strings.HasPrefix(u.Sub, "auto-restart"))
}

// failed reports whether its last run did not go well.
func (u Unit) failed() bool { return u.Result != "" && u.Result != "success" }

// TriedAgain reports whether the unit's last start failed and it is being started
// anew, as a helper is at each try of its VM.
func (u Unit) TriedAgain() bool {
	return (u.Active == "activating" || u.Active == "deactivating") && u.failed()
}

// ExamineVM checks what a VM needs, and says what became of its units. units
// are by template, as microvm-tap-interfaces.
func (d *Doctor) ExamineVM(vm statedir.VM, units map[string]Unit) []Finding {
	d.findings = nil
	p, err := vm.Current()
	if err != nil {
		d.wrong("package", err, "install the VM again: microvm update "+vm.Name+", or install-microvm")
		return d.findings
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		d.wrong("package", err, "build and install the VM again: microvm update "+vm.Name)
		return d.findings
	}
	d.ok("package", "%s, for %s", p.Dir(), plan.Hypervisor)
	d.program(plan)
	d.files(plan)
	// A guest of another architecture is emulated on every host.
	if plan.KVM == hypervisor.KVMRequired || plan.KVM == hypervisor.KVMWanted && kvm.Runs(plan.Arch) {
		d.kvm()
		if plan.KVM == hypervisor.KVMWanted && d.findings[len(d.findings)-1].Status == Failed {
			d.findings[len(d.findings)-1].Status = Missing // it is emulated, slowly
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
		d.ok("hypervisor", "the package starts it by its own bin/microvm-run")
		return
	}
	path, err := foreign.InUnit(plan.Argv[0])
	if err != nil {
		d.failed("hypervisor", notFound(plan.Argv[0], err), "install it, or name its package in the spec")
		return
	}
	if account, err := d.Host.Account(); err == nil {
		if why := accessAs(account, path, unix.X_OK); why != "" {
			d.failed("hypervisor", why, fmt.Sprintf("let user %s execute it and search its directories", d.Host.User))
			return
		}
	}
	d.ok("hypervisor", "%s", path)
	d.compiledFor(plan, path)
}

// notFound says once which program is not there, or why it cannot be executed.
func notFound(name string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return name + " is not executable"
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return name + " not found"
	}
	return fmt.Sprintf("%s: %v", name, err)
}

// files checks what the hypervisor reads, as its user.
func (d *Doctor) files(plan *hypervisor.Plan) {
	account, err := d.Host.Account()
	if err != nil {
		d.account()
		return
	}
	for _, f := range plan.Files {
		why := accessAs(account, f.Path, unix.R_OK)
		if why != "" {
			d.failed("file "+f.Role, why, fmt.Sprintf("put it there, and let user %s read it and search its directories, or correct the spec and install it again", d.Host.User))
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
			d.failed("macvtap "+m.ID, "there is no interface "+m.Link+" to stand on", "bring it up, or correct macvtap.link in the spec")
			continue
		}
		d.ok("macvtap "+m.ID, "stands on %s", m.Link)
	}
}

// volumes checks those that no start makes.
func (d *Doctor) volumes(vm statedir.VM, plan *hypervisor.Plan) {
	for _, v := range plan.Volumes {
		path := v.Image
		if !filepath.IsAbs(path) {
			path = filepath.Join(vm.Dir(), path)
		}
		check := "volume " + v.Image
		if _, err := os.Stat(path); err == nil {
			d.ok(check, "%s is there", path)
			continue
		}
		// A link may lead to a disk that is not mounted: no start puts an image there.
		if _, err := os.Lstat(path); err == nil || !v.AutoCreate {
			d.failed(check, "there is no image "+path, "put it there, mount the disk it is on, or set autoCreate to true")
			continue
		}
		if d.wrongPlace(vm, check, v.Image, filepath.Dir(path)) {
			continue
		}
		d.ok(check, "is made at the first start, %d MiB", v.SizeMiB)
	}
}

// wrongPlace says where a start makes no image, as the disk that it belongs on is
// not there.
func (d *Doctor) wrongPlace(vm statedir.VM, check, image, dir string) bool {
	table := mounts.Table{Root: d.path(""), MountInfo: d.path("proc/self/mountinfo")}
	if point, err := table.Missing(dir); err == nil && point != nil {
		d.failed(check, fmt.Sprintf("%s of %s is not mounted, and no image is made below it", point.Dir, point.From), "run: mount "+point.Dir)
		return true
	}
	before, known, err := vm.FileSystemBefore(image)
	if err != nil || !known {
		return false
	}
	if now, err := mounts.Of(dir); err == nil && !now.Same(before) {
		d.failed(check, fmt.Sprintf("%s is on %s now, and the VM's images were on %s", dir, now, before),
			"mount the disk that they are on; if they are to be here from now on: rm "+vm.VolumesRecord())
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
			d.failed("bridge "+bridge, "there is no such bridge", fmt.Sprintf("run: ip link add %[1]s type bridge; ip link set %[1]s up; or correct bridge in the spec", bridge))
			continue
		}
		d.ok("bridge "+bridge, "is there")
	}
}

// device checks for a device file that a module makes.
func (d *Doctor) device(check, path, module string) {
	if _, err := os.Stat(d.path(path)); err != nil {
		d.failed(check, "there is no /"+path, "run: modprobe "+module)
		return
	}
	d.ok(check, "/%s is there", path)
}

func (d *Doctor) devices(plan *hypervisor.Plan) {
	for _, dev := range plan.PCI {
		check, dir := "device "+dev.Address, d.path("sys/bus/pci/devices", dev.Address)
		if _, err := os.Stat(dir); err != nil {
			d.failed(check, "this machine has no such device", "find its address with lspci -D, and correct it in the spec")
			continue
		}
		group, err := os.Readlink(filepath.Join(dir, "iommu_group"))
		if err != nil {
			d.failed(check, "it is in no IOMMU group", "turn VT-d or AMD-Vi on in the firmware, and on Intel boot with intel_iommu=on")
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
			d.wrong(check, err, "install virtiofsd 1.8 or newer, the one that is written in Rust")
			continue
		}
		if info, err := os.Stat(s.Source); filepath.IsAbs(s.Source) && err == nil && !info.IsDir() {
			d.failed(check, s.Source+" is no directory", "correct the share's source in the spec")
			continue
		}
		d.ok(check, "%s, by %s", s.Source, path)
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
		d.failed("huge pages", fmt.Sprintf("it needs %d MiB, and %d MiB are free", need, free*kib/1024),
			"if it is not running already, reserve more with sysctl vm.nr_hugepages=N")
		return
	}
	d.ok("huge pages", "%d MiB of %d MiB that are free", need, free*kib/1024)
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
		detail := fmt.Sprintf("keeps failing, restarted %d times without a run of 10 s", u.Restarts)
		if u.Result != "success" && u.Result != "" { // that of a try under way
			detail += ", last with " + u.Result
		}
		d.failed(check, detail+u.lastWords(), "fix that, or end it with: microvm stop "+vm.Name+"; all it logged: microvm logs "+vm.Name)
	case helper && u.TriedAgain():
		d.failed(check, "failed with "+u.Result+" and is tried again"+u.lastWords(), "fix that, or end it with: microvm stop "+vm.Name+"; all it logged: microvm logs "+vm.Name)
	case u.Active == "failed":
		detail := "failed with " + u.Result + u.lastWords()
		d.failed(check, detail, "fix that, and start it with: microvm start "+vm.Name+"; all it logged: microvm logs "+vm.Name)
	case !wanted:
		d.ok(check, "not needed: the runner has no %s", t.What)
	case u.Skipped:
		d.failed(check, "was skipped by its condition: what was booted has no "+t.What+", and what is installed has", "take it with: microvm restart "+vm.Name)
	case helper && !t.Is(unit.SetBooted) && !d.pulledIn(vm, t):
		d.failed(check, "is needed, and nothing pulls it in", "run: install-microvm --relink")
	case u.Active == "" || u.Active == "inactive":
		d.ok(check, "not started")
	default:
		d.ok(check, "%s", u.Active)
	}
}

func (u Unit) lastWords() string {
	if len(u.Last) == 0 {
		return ""
	}
	return ": " + strings.Join(u.Last, "; ")
}

// pulledIn reports whether the VM's unit wants a helper: by a link, or by a line
// of a drop-in, of an installation or of the host's configuration.
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
