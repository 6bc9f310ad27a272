package programs

import (
	"context"
	"errors"

	"microvm/internal/exit"
	"microvm/internal/netif"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// register registers a running VM with systemd-machined, as root, with its interfaces
// on the host.
func register(ctx context.Context, vm statedir.VM, logf exit.Logf) error {
	plan, _, err := running(vm)
	if err != nil {
		return err
	}
	if plan.Machined == nil {
		return exit.WithHint(exit.Config(errors.New("the VM's package has no settings for systemd-machined")), "install the VM again")
	}
	leader, err := systemd.MainPID(ctx, unit.VM(vm.Name))
	if err != nil {
		return err
	}
	m := systemd.Machine{Name: vm.Name, UUID: plan.Machined.UUID, Leader: leader}
	for _, t := range plan.Taps {
		m.Interfaces = appendIndex(m.Interfaces, t.ID, logf)
	}
	for _, t := range plan.Macvtaps {
		m.Interfaces = appendIndex(m.Interfaces, t.ID, logf)
	}
	return systemd.Register(ctx, m)
}

// appendIndex appends the index of an interface, or logs that it has none.
func appendIndex(list []int, id string, logf exit.Logf) []int {
	index, err := netif.Index(id)
	if err != nil {
		logf("%w", err)
		return list
	}
	return append(list, index)
}
