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

// system has the paths of the kernel's file systems.
type system struct{ sysfs, proc, dev string }

// device is a PCI device as described by sysfs.
type device struct {
	address string
	// path is the device's directory below /sys/devices, without links. Everything that
	// depends on the device is below it.
	path string
	// driver is empty if the device is not bound.
	driver, override, group string
	// bridge reports a PCI-to-PCI bridge, chipset the host's own bridge to PCI or ISA.
	bridge, chipset bool
}

// taken returns the record of the device. If an earlier run of the same VM was killed,
// the device may be bound to vfio-pci already, so the entry of that run is kept.
func (d device) taken(before Record) Taken {
	for _, t := range before.Devices {
		if t.Address == d.address {
			return t
		}
	}
	return Taken{Address: d.address, Group: d.group, Driver: d.driver, Override: d.override}
}

// bus returns a path below the directory of the PCI bus in sysfs.
func (s system) bus(elem ...string) string {
	return filepath.Join(append([]string{s.sysfs, "bus/pci"}, elem...)...)
}

// Present reports whether a PCI device exists at address, which must be valid.
func Present(address string) bool {
	_, err := os.Lstat(system{sysfs: "/sys"}.bus("devices", address))
	return err == nil
}

// ValidAddress reports whether address has the form of sysfs: DDDD:BB:DD.F in lower
// case hexadecimal digits. The domain has four to eight digits.
func ValidAddress(address string) bool {
	domain, rest, ok := strings.Cut(address, ":")
	if !ok || len(domain) < 4 || len(domain) > 8 || len(rest) != len("01:00.0") {
		return false
	}
	hex := func(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
	return hex(domain) && hex(rest[:2]) && rest[2] == ':' && hex(rest[3:5]) &&
		rest[5] == '.' && rest[6] >= '0' && rest[6] <= '7'
}

// inspect reads a device and returns an error if it can never be passed through.
func (s system) inspect(address string) (device, error) {
	if !ValidAddress(address) {
		return device{}, exit.WithHint(exit.Configf("not a PCI address"), "write it as lspci -D prints it, such as 0000:01:00.0")
	}
	d, err := s.read(address)
	if errors.Is(err, fs.ErrNotExist) {
		return device{}, exit.WithHint(errors.New("PCI device not found"), "list PCI devices with: lspci -D")
	}
	if err != nil {
		return device{}, err
	}
	if d.bridge {
		return device{}, exit.WithHint(exit.Configf("a PCI bridge cannot be passed through"), "pass through the devices behind it")
	}
	if d.chipset {
		return device{}, exit.Configf("a bridge of the host's chipset cannot be passed through")
	}
	if d.group == "" {
		return device{}, s.noGroup()
	}
	return d, nil
}

// noGroup returns the error for a device without an IOMMU group.
func (s system) noGroup() error {
	groups, err := os.ReadDir(filepath.Join(s.sysfs, "kernel/iommu_groups"))
	if err == nil && len(groups) > 0 {
		return exit.Configf("it has no IOMMU group, so it could access all of the host's memory")
	}
	return exit.WithHint(exit.Configf("the IOMMU is off, so the device could access all of the host's memory"),
		"enable VT-d or AMD-Vi in the firmware and, on Intel, boot with intel_iommu=on")
}

// read reads a device's directory in sysfs. The error is fs.ErrNotExist if there is no
// such device.
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
	// Base class 06, subclasses 04 and 09: PCI-to-PCI bridge.
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

// hostSiblings returns the other devices of d's IOMMU group that a driver of the host
// uses, except those in mine. VFIO accepts a group only if there are none. Bridges and
// devices bound to VFIO or pci-stub do not count, drivers/vfio and drivers/iommu of the
// kernel.
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

// onHost reports whether a driver of the host uses the device.
func (d device) onHost() bool {
	if d.bridge || d.driver == "" || d.driver == driverName || d.driver == "pci-stub" || d.driver == "pcieport" {
		return false
	}
	_, err := os.Stat(filepath.Join(d.path, "vfio-dev"))
	return err != nil
}

// readLine returns the content of a small file without surrounding white space.
func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// linkName returns the last element of a link's target, "" if the link does not exist.
func linkName(path string) (string, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return filepath.Base(target), err
}
