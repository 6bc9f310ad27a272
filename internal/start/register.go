package start

import (
	"context"
	"errors"

	"microvm/internal/exit"
	"microvm/internal/netif"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// Register registers a running VM with systemd-machined, as root, with the
// interfaces of the host's side.
func (l *Launcher) Register(ctx context.Context, vm statedir.VM) error {
	p, err := vm.Booted()
	if err != nil {
		return exit.Config(err)
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return exit.Config(err)
	}
	if plan.Machined == nil {
		return exit.Config(errors.New("its package does not ask to be registered with systemd-machined; install it again"))
	}
	leader, err := systemd.MainPID(ctx, unit.VM(vm.Name))
	if err != nil {
		return err
	}
	m := systemd.Machine{Name: vm.Name, UUID: plan.Machined.UUID, Leader: leader}
	for _, t := range plan.Taps {
		m.Interfaces = l.appendIndex(m.Interfaces, t.ID)
	}
	for _, t := range plan.Macvtaps {
		m.Interfaces = l.appendIndex(m.Interfaces, t.ID)
	}
	return systemd.Register(ctx, m)
}

func (l *Launcher) appendIndex(list []int, id string) []int {
	index, err := netif.Index(id)
	if err != nil {
		l.logf("%w", err)
		return list
	}
	return append(list, index)
}
