// Package vfio takes PCI devices from the host's drivers, hands them to the
// hypervisor's user through vfio-pci, and gives them back to the drivers they
// came from.
//
// It acts through sysfs, as Documentation/driver-api/vfio.rst and
// Documentation/ABI/testing/sysfs-bus-pci of the kernel describe. What it is
// about to do is recorded before it is done, so that a run that was killed at
// any point can be undone. It knows neither units nor specs.
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

// driverName is the driver that hands devices to user space.
const driverName = "vfio-pci"

// Record is what was done, or is about to be done, for one VM.
type Record struct {
	Devices []Taken `json:"devices"`
}

// Taken is one device and how it was found.
type Taken struct {
	Address string `json:"address"`
	// Group is the number of its IOMMU group.
	Group string `json:"group"`
	// Driver had the device before; empty means none had.
	Driver string `json:"driver,omitempty"`
	// Override was the device's driver_override; empty means none.
	Override string `json:"override,omitempty"`
	// Unknown says that somebody else took it and did not write down from which
	// driver: the kernel's choice is to have it.
	Unknown bool `json:"unknown,omitempty"`
	// Nodes are the device nodes that were handed over, as they were before.
	Nodes []Node `json:"nodes,omitempty"`
}

// Node is a device node as it was found.
type Node struct {
	Path string `json:"path"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"`
}

// Request names the devices of one VM and who gets them.
type Request struct {
	// Addresses are full, as 0000:01:00.0.
	Addresses []string
	// UID and GID get the device nodes, with mode 0660.
	UID, GID int
	// Force takes devices that the host needs, and groups that are not all the
	// VM's.
	Force bool
	// Holders are the records of the other VMs, by name.
	Holders map[string]Record
	// Log receives whole lines.
	Log io.Writer
}

// Up takes the devices. before is the record of an earlier run that was not
// undone; save stores a record, and is called before anything is changed and
// whenever there is more to undo. Where Up fails, everything it changed is
// back as it was. What no retry helps is exit.Config: what
// is no address, a device that is never taken, an IOMMU that is off. A device that
// is not there, or that somebody else uses, may be free the next time.
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
	// Devices that an earlier run took and this one does not name stay
	// recorded until they are given back.
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
			// The nodes are known only now.
			err = save(record)
		}
		if err != nil {
			return r.undo(sys, record, save, fmt.Errorf("device %s: %w", d.address, err))
		}
		r.logf("%s: taken from %s, IOMMU group %s", d.address, orNone(d.driver), d.group)
	}
	return save(record)
}

// undo gives everything back after a failure. The record goes only when that
// worked.
func (r Request) undo(sys system, record Record, save func(Record) error, cause error) error {
	if err := record.down(sys); err != nil {
		return errors.Join(cause, err)
	}
	return errors.Join(cause, save(Record{}))
}

// inspect reads every device and refuses what must not be taken, all of it at
// once.
func (r Request) inspect(sys system) ([]device, error) {
	var devices []device
	var faults []error
	for i, address := range r.Addresses {
		if slices.Contains(r.Addresses[:i], address) {
			faults = append(faults, exit.Configf("device %s is named twice; leave one out", address))
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

// refuse says why one device must not be taken.
func (r Request) refuse(sys system, d device, use []usage) error {
	if vm, address := r.holder(d); vm != "" {
		if address == d.address {
			return fmt.Errorf("VM %q has it; stop that one first", vm)
		}
		return fmt.Errorf("VM %q has %s, which is in the same IOMMU group %s, and a group goes to one VM only; stop that one first", vm, address, d.group)
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
		faults = append(faults, fmt.Errorf("IOMMU group %s also has %s, still on host drivers; pass them through, too, or unbind them", d.group, strings.Join(siblings, ", ")))
	}
	err = errors.Join(faults...)
	if err == nil {
		return nil
	}
	if r.Force {
		r.logf("%s: taken by force: %s", d.address, strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil
	}
	return fmt.Errorf("%w (MICROVM_PCI_FORCE=1 takes it all the same)", err)
}

// holder returns the other VM that has the device or its group, and its device.
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

// take binds one device to vfio-pci and hands over its nodes.
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

// Down gives back what the record names: each device to the driver it was
// taken from. A device that is gone is no error. All are tried.
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

// TakenByAnother is a record of those devices that another program has reserved for
// vfio-pci, as the kernel's documentation has everybody do. One that is with vfio-pci
// without that, by an option of the module say, is where it was, and so is one that
// is gone.
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
			paths = nil // it is not with vfio-pci any more
		}
		for _, path := range paths {
			t.Nodes = append(t.Nodes, Node{Path: path, Mode: rootsNode})
		}
		record.Devices = append(record.Devices, t)
	}
	return record, nil
}

// without returns the devices that are not among the addresses.
func (rec Record) without(addresses []string) Record {
	var rest Record
	for _, t := range rec.Devices {
		if !slices.Contains(addresses, t.Address) {
			rest.Devices = append(rest.Devices, t)
		}
	}
	return rest
}

// and returns the devices of both.
func (rec Record) and(more Record) Record {
	return Record{Devices: slices.Concat(more.Devices, rec.Devices)}
}

func (r Request) logf(format string, args ...any) {
	if r.Log != nil {
		_, _ = fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// orNone names a driver that may be none.
func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
