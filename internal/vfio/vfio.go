// Package vfio unbinds PCI devices from the host's drivers, hands them to the
// hypervisor's user through vfio-pci, and gives them back to their drivers.
//
// It uses sysfs, as described in Documentation/driver-api/vfio.rst and
// Documentation/ABI/testing/sysfs-bus-pci of the kernel. Each change is recorded before
// it is made, so that a run that was killed at any point can be undone. The package
// knows neither units nor specs.
package vfio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"microvm/internal/exit"
)

// driverName is the driver that gives user space access to PCI devices.
const driverName = "vfio-pci"

// stopHint is the hint for a device of another VM.
const stopHint = "stop it first: microvm stop %s"

// Record lists the devices that were taken, or are about to be taken, for one VM.
type Record struct {
	Devices []Taken `json:"devices"`
}

// Taken is one device and its state before it was taken.
type Taken struct {
	Address string `json:"address"`
	// Group is the number of the device's IOMMU group.
	Group string `json:"group"`
	// Driver is the driver that the device was bound to; empty if there was none.
	Driver string `json:"driver,omitempty"`
	// Override was the device's driver_override; empty if there was none.
	Override string `json:"override,omitempty"`
	// Unknown reports that another program took the device without recording its
	// driver. When it is given back, the kernel chooses the driver.
	Unknown bool `json:"unknown,omitempty"`
	// Nodes are the device nodes that were handed over, with their previous owners.
	Nodes []Node `json:"nodes,omitempty"`
}

// Node is a device node with its owner and mode before it was handed over.
type Node struct {
	Path string `json:"path"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"`
}

// Request lists the devices of one VM and the user who gets them.
type Request struct {
	// Addresses are full PCI addresses, such as 0000:01:00.0.
	Addresses []string
	// UID and GID become the owner of the device nodes, which get mode 0660.
	UID, GID int
	// Force also takes devices that the host uses, and devices whose IOMMU group has
	// others that the host uses.
	Force bool
	// Holders are the records of the other VMs, by the VM's name.
	Holders map[string]Record
	// Log receives whole lines; it may be nil.
	Log io.Writer
}

// Up takes the devices. before is the record of an earlier run that was not undone.
// save stores a record; it is called before anything is changed, and again whenever
// there is more to undo. If Up fails, it undoes all of its changes. An error that no
// retry can help is marked by exit.Config: an invalid address, a device that is never
// passed through, an IOMMU that is off. A device that is missing or in use may be
// available the next time.
func (r Request) Up(before Record, save func(Record) error) error {
	return r.up(system{sysfs: "/sys", proc: "/proc", dev: "/dev"}, before, save)
}

func (r Request) up(sys system, before Record, save func(Record) error) error {
	devices, err := r.inspect(sys)
	if err != nil {
		return err
	}
	if err := sys.loadDriver(); err != nil {
		return err
	}
	record := Record{}
	for _, d := range devices {
		record.Devices = append(record.Devices, d.taken(before))
	}
	// Devices of an earlier run that are not requested now stay in the record until
	// they are given back.
	stale := before.without(r.Addresses)
	if err := save(record.and(stale)); err != nil {
		return err
	}
	if err := stale.down(sys); err != nil {
		return err
	}
	for i, d := range devices {
		err := r.take(sys, d, &record.Devices[i])
		if err == nil {
			// Only now is it known which nodes there are.
			err = save(record)
		}
		if err != nil {
			return r.undo(sys, record, save, fmt.Errorf("device %s: %w", d.address, err))
		}
		r.logf("%s: taken from %s, IOMMU group %s", d.address, orNone(d.driver), d.group)
	}
	return save(record)
}

// undo gives everything back after the failure cause. The record is cleared only if
// that succeeds.
func (r Request) undo(sys system, record Record, save func(Record) error, cause error) error {
	if err := record.down(sys); err != nil {
		return errors.Join(cause, err)
	}
	return errors.Join(cause, save(Record{}))
}

// inspect reads all devices, and returns the faults of all of them at once.
func (r Request) inspect(sys system) ([]device, error) {
	var devices []device
	var faults []error
	for i, address := range r.Addresses {
		if slices.Contains(r.Addresses[:i], address) {
			faults = append(faults, exit.Configf("device %s is listed twice", address))
			continue
		}
		d, err := sys.inspect(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("device %s: %w", address, err))
			continue
		}
		devices = append(devices, d)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	use, err := sys.readUse()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if err := r.refuse(sys, d, use); err != nil {
			faults = append(faults, fmt.Errorf("device %s: %w", d.address, err))
		}
	}
	return devices, errors.Join(faults...)
}

// refuse returns an error if a device must not be taken: another VM or the host uses it.
func (r Request) refuse(sys system, d device, use []usage) error {
	if vm, address := r.holder(d); vm != "" {
		if address == d.address {
			return exit.WithHint(fmt.Errorf("in use by VM %q", vm), stopHint, vm)
		}
		return exit.WithHint(fmt.Errorf("IOMMU group %s is in use by VM %q, which has %s", d.group, vm, address), stopHint, vm)
	}
	var faults []error
	for _, why := range d.usedFor(use) {
		faults = append(faults, errors.New(why))
	}
	siblings, err := sys.hostSiblings(d, r.Addresses)
	if err != nil {
		return err
	}
	if len(siblings) > 0 {
		faults = append(faults, exit.WithHint(
			fmt.Errorf("IOMMU group %s also contains devices on host drivers: %s", d.group, strings.Join(siblings, ", ")),
			"pass them through as well, or unbind them"))
	}
	err = errors.Join(faults...)
	if err == nil {
		return nil
	}
	if r.Force {
		r.logf("%s: taken by force: %s", d.address, strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil
	}
	return exit.WithHint(err, "to take the device anyway, set MICROVM_PCI_FORCE=1")
}

// holder returns the other VM that has the device, or another one of its IOMMU group,
// and that device's address; "" if there is none.
func (r Request) holder(d device) (vm, address string) {
	names := make([]string, 0, len(r.Holders))
	for name := range r.Holders {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, t := range r.Holders[name].Devices {
			if t.Address == d.address {
				return name, t.Address
			}
			if t.Group == d.group {
				vm, address = name, t.Address
			}
		}
	}
	return vm, address
}

// take binds one device to vfio-pci, hands over its nodes and adds them to t.
func (r Request) take(sys system, d device, t *Taken) error {
	if err := sys.bindVFIO(d.address); err != nil {
		return err
	}
	paths, err := sys.nodes(d)
	if err != nil {
		return err
	}
	for _, path := range paths {
		node, err := handOver(path, r.UID, r.GID)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(t.Nodes, func(n Node) bool { return n.Path == path }) {
			t.Nodes = append(t.Nodes, node)
		}
	}
	return nil
}

// Down gives each recorded device back to its driver. It is not an error if a device no
// longer exists. A failure does not keep Down from giving back the others.
func (rec Record) Down() error {
	return rec.down(system{sysfs: "/sys", proc: "/proc", dev: "/dev"})
}

func (rec Record) down(sys system) error {
	var faults []error
	for _, t := range slices.Backward(rec.Devices) {
		if err := sys.giveBack(t); err != nil {
			to := orNone(t.Driver)
			if t.Unknown {
				to = "the host"
			}
			faults = append(faults, fmt.Errorf("give back device %s to %s: %w", t.Address, to, err))
		}
	}
	return errors.Join(faults...)
}

// TakenByAnother returns a record of those devices that another program has bound to
// vfio-pci by driver_override, as the kernel's documentation recommends. Devices that
// are bound to it in another way, such as an option of the module, and devices that do
// not exist are left out.
func TakenByAnother(addresses []string) (Record, error) {
	return takenByAnother(system{sysfs: "/sys", proc: "/proc", dev: "/dev"}, addresses)
}

func takenByAnother(sys system, addresses []string) (Record, error) {
	var record Record
	for _, address := range addresses {
		if !ValidAddress(address) {
			continue
		}
		d, err := sys.read(address)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Record{}, fmt.Errorf("device %s: %w", address, err)
		}
		if d.override != driverName {
			continue
		}
		t := Taken{Address: address, Group: d.group, Unknown: true}
		paths, err := sys.nodes(d)
		if err != nil {
			paths = nil // it is no longer bound to vfio-pci
		}
		for _, path := range paths {
			t.Nodes = append(t.Nodes, Node{Path: path, Mode: initialMode})
		}
		record.Devices = append(record.Devices, t)
	}
	return record, nil
}

// without returns the record without the devices at addresses.
func (rec Record) without(addresses []string) Record {
	var rest Record
	for _, t := range rec.Devices {
		if !slices.Contains(addresses, t.Address) {
			rest.Devices = append(rest.Devices, t)
		}
	}
	return rest
}

// and returns a record of the devices of both.
func (rec Record) and(more Record) Record {
	return Record{Devices: slices.Concat(more.Devices, rec.Devices)}
}

func (r Request) logf(format string, args ...any) {
	if r.Log != nil {
		_, _ = fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// orNone returns driver, or "no driver" if it is empty.
func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
