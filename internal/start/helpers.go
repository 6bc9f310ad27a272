package start

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/statedir"
	"microvm/internal/unit"
)

// checkHelpers checks that each helper that the plan needs has recorded its work
// for vm. The VM's unit does not require its helpers, and an interface that a failed
// helper did not create may still exist under that name, for another VM.
func checkHelpers(vm statedir.VM, plan *hypervisor.Plan) error {
	var errs error
	for _, h := range []struct {
		unit.Template
		done func() (bool, error)
	}{
		{unit.Taps, func() (bool, error) { return recordedInterfaces(vm, unit.Taps.Record, tapNames(plan)) }},
		{unit.Macvtaps, func() (bool, error) { return recordedInterfaces(vm, unit.Macvtaps.Record, macvtapNames(plan)) }},
		{unit.PCI, func() (bool, error) { return recordedDevices(vm, plan) }},
		{unit.Virtiofsd, func() (bool, error) { return recordedSockets(vm, plan) }},
	} {
		done, err := h.done()
		switch {
		case err != nil:
			errs = errors.Join(errs, err)
		case !done:
			errs = errors.Join(errs, exit.WithHint(fmt.Errorf("%s has not done its work", h.Of(vm.Name)),
				"find the cause with: journalctl -u %s", unit.Short(h.Of(vm.Name))))
		}
	}
	return errs
}

func tapNames(plan *hypervisor.Plan) []string {
	var out []string
	for _, t := range plan.Taps {
		out = append(out, t.ID)
	}
	return out
}

func macvtapNames(plan *hypervisor.Plan) []string {
	var out []string
	for _, m := range plan.Macvtaps {
		out = append(out, m.ID)
	}
	return out
}

// recordedInterfaces reports whether the interfaces with those names are the ones
// that a helper has recorded. The record of a helper that did not finish has index 0.
func recordedInterfaces(vm statedir.VM, piece string, names []string) (bool, error) {
	if len(names) == 0 {
		return true, nil
	}
	var record struct {
		Interfaces map[string]int `json:"interfaces"`
	}
	if found, err := vm.ReadRecord(piece, &record); !found || err != nil {
		return false, err
	}
	for _, name := range names {
		if index, err := netif.Index(name); err != nil || index != record.Interfaces[name] {
			return false, nil // it no longer exists
		}
	}
	return true, nil
}

// recordedDevices reports whether a helper has recorded the VM's PCI devices.
func recordedDevices(vm statedir.VM, plan *hypervisor.Plan) (bool, error) {
	if len(plan.PCI) == 0 {
		return true, nil
	}
	var record struct {
		Devices []struct {
			Address string `json:"address"`
		} `json:"devices"`
	}
	if found, err := vm.ReadRecord(unit.PCI.Record, &record); !found || err != nil {
		return false, err
	}
	taken := map[string]bool{}
	for _, d := range record.Devices {
		taken[d.Address] = true
	}
	for _, d := range plan.PCI {
		if !taken[d.Address] || !handedOver(d.Address) {
			return false, nil
		}
	}
	return true, nil
}

// recordedSockets reports whether a helper has bound the sockets of the VM's shares.
func recordedSockets(vm statedir.VM, plan *hypervisor.Plan) (bool, error) {
	if len(plan.Shares) == 0 {
		return true, nil
	}
	var sockets []struct {
		Path string `json:"path"`
	}
	if found, err := vm.ReadRecord(unit.Virtiofsd.Record, &sockets); !found || err != nil {
		return false, err
	}
	bound := map[string]bool{}
	for _, s := range sockets {
		bound[s.Path] = true
	}
	for _, s := range plan.Shares {
		if socket, here := s.SocketIn(vm.Dir()); here && !bound[socket] {
			return false, nil
		}
	}
	return true, nil
}

// handedOver reports whether a PCI device has the driver vfio-pci and this process
// may use its IOMMU group, see Documentation/driver-api/vfio.rst of the kernel.
func handedOver(address string) bool {
	device := "/sys/bus/pci/devices/" + address
	driver, err := os.Readlink(device + "/driver")
	if err != nil || filepath.Base(driver) != "vfio-pci" {
		return false
	}
	group, err := os.Readlink(device + "/iommu_group")
	return err == nil && unix.Access("/dev/vfio/"+filepath.Base(group), unix.R_OK|unix.W_OK) == nil
}
