package vfio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/exit"
)

// system is where the kernel's files are.
type system struct{ sysfs, proc, dev string }

// device is a PCI device as sysfs shows it.
type device struct {
	address string
	// path is the device's own directory below /sys/devices, without links:
	// everything that depends on the device is below it.
	path string
	// driver is empty where none has it.
	driver, override, group string
	// bridge is a PCI-to-PCI bridge, chipset the host's own bridge to PCI or ISA.
	bridge, chipset bool
}

// taken is the record of taking the device. Where an earlier run of the same
// VM was killed the device may be with vfio-pci already: what it recorded then
// is the truth.
func (d device) taken(before Record) Taken {
	for _, t := range before.Devices {
		if t.Address == d.address {
			return t
		}
	}
	return Taken{Address: d.address, Group: d.group, Driver: d.driver, Override: d.override}
}

// bus is a path below the PCI bus in sysfs.
func (s system) bus(elem ...string) string {
	return filepath.Join(append([]string{s.sysfs, "bus/pci"}, elem...)...)
}

// Present says whether there is a PCI device at a valid address.
func Present(address string) bool {
	_, err := os.Lstat(system{sysfs: "/sys"}.bus("devices", address))
	return err == nil
}

// ValidAddress says whether an address is one of sysfs's file names:
// DDDD:BB:DD.F in lower case hexadecimal digits; domains may be longer.
func ValidAddress(address string) bool {
	domain, rest, ok := strings.Cut(address, ":")
	if !ok || len(domain) < 4 || len(domain) > 8 || len(rest) != len("01:00.0") {
		return false
	}
	hex := func(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
	return hex(domain) && hex(rest[:2]) && rest[2] == ':' && hex(rest[3:5]) &&
		rest[5] == '.' && rest[6] >= '0' && rest[6] <= '7'
}

// inspect reads a device that is to be taken.
func (s system) inspect(address string) (device, error) {
	if !ValidAddress(address) {
		return device{}, exit.Configf("this is no PCI address; write it as lspci -D does, 0000:01:00.0")
	}
	d, err := s.read(address)
	if errors.Is(err, fs.ErrNotExist) {
		return device{}, fmt.Errorf("there is no such PCI device; lspci -D lists those that there are")
	}
	if err != nil {
		return device{}, err
	}
	if d.bridge {
		return device{}, exit.Configf("it is a PCI bridge; pass the devices behind it through instead")
	}
	if d.chipset {
		return device{}, exit.Configf("it is a bridge of the host's chipset, which the host cannot do without; name the device that the VM is to have")
	}
	if d.group == "" {
		return device{}, s.noGroup()
	}
	return d, nil
}

// noGroup says why a device has no IOMMU group.
func (s system) noGroup() error {
	groups, err := os.ReadDir(filepath.Join(s.sysfs, "kernel/iommu_groups"))
	if err == nil && len(groups) > 0 {
		return exit.Configf("it has no IOMMU group, so nothing would keep it from the host's memory; it cannot be passed through")
	}
	return exit.Configf("the IOMMU is off, so nothing would keep the device from the host's memory; turn on VT-d or AMD-Vi in the firmware and, for Intel, boot with intel_iommu=on")
}

// read reads a device's directory.
func (s system) read(address string) (device, error) {
	d := device{address: address}
	var err error
	if d.path, err = filepath.EvalSymlinks(s.bus("devices", address)); err != nil {
		return d, err
	}
	class, err := readLine(filepath.Join(d.path, "class"))
	if err != nil {
		return d, err
	}
	// Base class 06, subclasses 04 and 09: PCI-to-PCI bridges.
	d.bridge = strings.HasPrefix(class, "0x0604") || strings.HasPrefix(class, "0x0609")
	// 00: host bridge, 01: ISA bridge.
	d.chipset = strings.HasPrefix(class, "0x0600") || strings.HasPrefix(class, "0x0601")
	if d.driver, err = linkName(filepath.Join(d.path, "driver")); err != nil {
		return d, err
	}
	if d.group, err = linkName(filepath.Join(d.path, "iommu_group")); err != nil {
		return d, err
	}
	d.override, err = readLine(filepath.Join(d.path, "driver_override"))
	if d.override == "(null)" {
		d.override = ""
	}
	return d, err
}

// hostSiblings names the devices of d's group that are neither the VM's nor
// harmless. The group is usable only when no driver of the host's moves data
// for any of them; bridges and devices that are with VFIO or pci-stub count as
// harmless, drivers/vfio and drivers/iommu of the kernel.
func (s system) hostSiblings(d device, mine []string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.sysfs, "kernel/iommu_groups", d.group, "devices"))
	if err != nil {
		return nil, fmt.Errorf("read IOMMU group %s: %w", d.group, err)
	}
	var names []string
	for _, entry := range entries {
		address := entry.Name()
		if slices.Contains(mine, address) || !ValidAddress(address) {
			continue
		}
		sibling, err := s.read(address)
		if err != nil {
			return nil, fmt.Errorf("read device %s of IOMMU group %s: %w", address, d.group, err)
		}
		if sibling.onHost() {
			names = append(names, address+" ("+sibling.driver+")")
		}
	}
	return names, nil
}

// onHost says whether a driver of the host's uses the device.
func (d device) onHost() bool {
	if d.bridge || d.driver == "" || d.driver == driverName || d.driver == "pci-stub" || d.driver == "pcieport" {
		return false
	}
	_, err := os.Stat(filepath.Join(d.path, "vfio-dev"))
	return err != nil
}

// readLine reads a small file without its newline.
func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// linkName returns the last element of a link's target, empty where there is
// no link.
func linkName(path string) (string, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return filepath.Base(target), err
}
