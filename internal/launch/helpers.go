package launch

import (
	"errors"
	"fmt"

	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/statedir"
)

// checkHelpers wants each helper that the plan needs to have recorded what it did
// for vm. The helpers are not required by the VM's unit, and what one of them did
// not make may be there all the same: an interface of that name, of another VM.
func checkHelpers(vm statedir.VM, plan *hypervisor.Plan) error {
	var errs error
	for _, h := range []struct {
		unit string
		done func() (bool, error)
	}{
		{"tap-interfaces", func() (bool, error) { return recordedInterfaces(vm, "tap-interfaces", tapNames(plan)) }},
		{"macvtap-interfaces", func() (bool, error) { return recordedInterfaces(vm, "macvtap-interfaces", macvtapNames(plan)) }},
		{"pci-devices", func() (bool, error) { return recordedDevices(vm, plan) }},
		{"virtiofsd", func() (bool, error) { return recordedSockets(vm, plan) }},
	} {
		done, err := h.done()
		switch {
		case err != nil:
			errs = errors.Join(errs, err)
		case !done:
			errs = errors.Join(errs, fmt.Errorf("microvm-%[1]s@%[2]s.service has not done its work\nhint: see why with: journalctl -u microvm-%[1]s@%[2]s", h.unit, vm.Name))
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

// recordedInterfaces reports whether the interfaces of those names are the ones that
// a helper has recorded. The index is 0 in a record of one that did not finish.
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
			return false, nil //nolint:nilerr // it is gone
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
	if found, err := vm.ReadRecord("pci-devices", &record); !found || err != nil {
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
	if found, err := vm.ReadRecord("virtiofsd", &sockets); !found || err != nil {
		return false, err
	}
	bound := map[string]bool{}
	for _, s := range sockets {
		bound[s.Path] = true
	}
	for _, s := range plan.Shares {
		if !bound[s.Socket] {
			return false, nil
		}
	}
	return true, nil
}
