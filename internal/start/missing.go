package start

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
	"microvm/internal/netif"
	"microvm/internal/runner"
	"microvm/internal/unit"
)

// check looks for what has to be there before the hypervisor starts.
func (l *Launcher) check(p *runner.Package, plan *hypervisor.Plan, vm string) error {
	for _, f := range plan.Files {
		if err := unix.Access(f.Path, unix.R_OK); err != nil {
			return fmt.Errorf("%s %s: %w; put the file there, or correct the spec and install it again", f.Role, f.Path, err)
		}
	}
	if missing := notMade(plan, ".", l.remedies(p, vm)); len(missing) > 0 {
		return fmt.Errorf("%s", strings.Join(missing, "\n"))
	}
	return nil
}

// checkKVM tells an operator why a VM is slow, or would never boot.
func (l *Launcher) checkKVM(plan *hypervisor.Plan) error {
	if plan.KVM == hypervisor.KVMUnused {
		return nil
	}
	if !kvm.Runs(plan.Arch) {
		if plan.KVM == hypervisor.KVMWanted {
			return nil // emulated, as everybody expects
		}
		return exit.WithHint(fmt.Errorf("this VM needs KVM, which on this host has no guests of architecture %s", plan.Arch), "%s", withoutKVM(plan))
	}
	err := usableKVM()
	if err == nil {
		return nil
	}
	const remedy = "load kvm_intel or kvm_amd and let group kvm read and write /dev/kvm"
	if plan.KVM == hypervisor.KVMRequired {
		return fmt.Errorf("%w; this VM needs it: %s, or %s", err, remedy, withoutKVM(plan))
	}
	l.logf("warning: %w; the guest is emulated, which is slow: %s", err, remedy)
	return nil
}

// withoutKVM is how a VM that needs KVM is made to do without.
func withoutKVM(plan *hypervisor.Plan) string {
	if plan.Hypervisor == "qemu" {
		return "set cpu in the spec to a model that QEMU emulates as well, such as max, and accel, if it is set, to kvm:tcg"
	}
	return "take hypervisor qemu, which can do without"
}

// helperRemedies are what to do where something is missing that a helper makes.
type helperRemedies struct{ Taps, Macvtaps, Shares string }

func (l *Launcher) remedies(p *runner.Package, vm string) helperRemedies {
	if l.ByHand {
		bin := filepath.Join(p.Dir(), "bin")
		return helperRemedies{
			Taps:     "make it with: sudo " + filepath.Join(bin, "tap-up"),
			Macvtaps: "make it with: sudo " + filepath.Join(bin, "macvtap-up"),
			Shares:   "serve it, in another terminal, with: sudo " + filepath.Join(bin, "virtiofsd-run"),
		}
	}
	start := func(helper unit.Template) string {
		return fmt.Sprintf("make it with: systemctl start %s (or install the VM again if that unit was not pulled in)", unit.Short(helper.Of(vm)))
	}
	return helperRemedies{
		Taps:     start(unit.Taps),
		Macvtaps: start(unit.Macvtaps),
		Shares:   start(unit.Virtiofsd),
	}
}

// notMade lists what the helpers should have made and is not there, each with
// what makes it. dir is the state directory.
func notMade(plan *hypervisor.Plan, dir string, remedies helperRemedies) []string {
	var out []string
	for _, t := range plan.Taps {
		if !netif.Exists(t.ID) {
			out = append(out, fmt.Sprintf("tap interface %q is missing; %s", t.ID, remedies.Taps))
		}
	}
	for _, m := range plan.Macvtaps {
		if !netif.Exists(m.ID) {
			out = append(out, fmt.Sprintf("macvtap interface %q is missing; %s", m.ID, remedies.Macvtaps))
		}
	}
	for _, s := range plan.Shares {
		path := s.Socket
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); err != nil {
			out = append(out, fmt.Sprintf("socket %s of share %q is missing; %s", s.Socket, s.Tag, remedies.Shares))
		}
	}
	return out
}

// handedOver reports whether a PCI device has the driver vfio-pci, and who runs this
// may use its IOMMU group: Documentation/driver-api/vfio.rst of the kernel.
func handedOver(address string) bool {
	device := "/sys/bus/pci/devices/" + address
	driver, err := os.Readlink(device + "/driver")
	if err != nil || filepath.Base(driver) != "vfio-pci" {
		return false
	}
	group, err := os.Readlink(device + "/iommu_group")
	return err == nil && unix.Access("/dev/vfio/"+filepath.Base(group), unix.R_OK|unix.W_OK) == nil
}
