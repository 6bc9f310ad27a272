package programs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/rootlock"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/vfio"
	"microvm/internal/wait"
)

// PCI is microvm-pci-devices up|down NAME: it takes a VM's PCI devices from the host,
// and gives them back. It returns the exit code.
func PCI(args []string, host statedir.Host, stderr io.Writer) int {
	program := unit.PCI.Program
	t, err := parse(program, args, host)
	if err != nil {
		return exit.Report(stderr, program, t.vm.Name, err)
	}
	if t.verb == "down" {
		err = withPCILock(host, func() error { return pciDown(t) })
	} else {
		err = pciUp(program, t, stderr)
	}
	return exit.Report(stderr, program, t.vm.Name, err)
}

// pciUp waits for the devices before it takes the lock, which other VMs need as well.
func pciUp(program string, t target, stderr io.Writer) error {
	plan, err := t.plan()
	if err != nil {
		return err
	}
	err = waiting(program, t.vm.Name, stderr, func(ctx context.Context, p *wait.Patience) error {
		return awaitDevices(ctx, p, plan.PCI)
	})
	if err != nil {
		return err
	}
	return withPCILock(t.vm.Host, func() error { return takePCI(t, plan, stderr) })
}

func takePCI(t target, plan *hypervisor.Plan, stderr io.Writer) (err error) {
	request := vfio.Request{Force: os.Getenv("MICROVM_PCI_FORCE") == "1", Log: stderr}
	for _, d := range plan.PCI {
		request.Addresses = append(request.Addresses, d.Address)
	}
	account, err := t.vm.Host.Account()
	if err != nil {
		return err
	}
	request.UID, request.GID = account.UID, account.GID
	if request.Holders, err = pciHolders(t.vm); err != nil {
		return err
	}
	var before vfio.Record
	if _, err := t.vm.ReadRecord(unit.PCI.Record, &before); err != nil {
		return err
	}
	return request.Up(before, func(r vfio.Record) error { return savePCI(t.vm, r) })
}

func pciDown(t target) error {
	var record vfio.Record
	found, err := t.vm.ReadRecord(unit.PCI.Record, &record)
	if err == nil && !found {
		record, err = takenByAnother(t.vm)
	}
	if err != nil {
		return err
	}
	if err := record.Down(); err != nil {
		return err
	}
	return t.vm.RemoveRecord(unit.PCI.Record)
}

// savePCI writes a record, or removes it if r has no devices.
func savePCI(vm statedir.VM, r vfio.Record) error {
	if len(r.Devices) == 0 {
		return vm.RemoveRecord(unit.PCI.Record)
	}
	return vm.WriteRecord(unit.PCI.Record, r)
}

// pciHolders returns the PCI devices of the other VMs, by VM.
func pciHolders(vm statedir.VM) (map[string]vfio.Record, error) {
	entries, err := os.ReadDir(vm.Host.RuntimeDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list VMs with PCI devices: %w", err)
	}
	holders := map[string]vfio.Record{}
	for _, entry := range entries {
		other, err := vm.Host.VM(entry.Name())
		if err != nil || other.Name == vm.Name {
			continue
		}
		var record vfio.Record
		found, err := other.ReadRecord(unit.PCI.Record, &record)
		if err != nil {
			return nil, err
		}
		if !found {
			// A VM with an unreadable package does not block its devices for others.
			record, _ = takenByAnother(other)
		}
		if len(record.Devices) > 0 {
			holders[other.Name] = record
		}
	}
	return holders, nil
}

// takenByAnother returns a record of the devices that microvm.nix, which keeps no
// records, has taken for this run of the VM.
func takenByAnother(vm statedir.VM) (vfio.Record, error) {
	if !vm.StartedByAnother() {
		return vfio.Record{}, nil
	}
	plan, err := bootedPlan(vm)
	if err != nil || plan == nil {
		return vfio.Record{}, err
	}
	var addresses []string
	for _, d := range plan.PCI {
		addresses = append(addresses, d.Address)
	}
	return vfio.TakenByAnother(addresses)
}

// withPCILock calls do while no other VM takes or returns devices: the check whether a
// device is free and the record of who takes it have to be one step.
func withPCILock(host statedir.Host, do func() error) error {
	unlock, err := rootlock.Take(host.RuntimeDir)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}
