package programs

import (
	"context"
	"io"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/statedir"
	"microvm/internal/unit"
	"microvm/internal/wait"
)

// Macvtap is microvm-macvtap-interfaces up|down NAME: it creates and removes a VM's
// macvtap interfaces. It returns the exit code.
func Macvtap(args []string, host statedir.Host, stderr io.Writer) int {
	program := unit.Macvtaps.Program
	t, err := parse(program, args, host)
	if err != nil {
		return exit.Report(stderr, program, t.vm.Name, err)
	}
	if t.verb == "down" {
		return exit.Report(stderr, program, t.vm.Name, interfacesDown(t.vm, unit.Macvtaps.Record, func(p *hypervisor.Plan) (names []string) {
			for _, m := range p.Macvtaps {
				names = append(names, m.ID)
			}
			return names
		}))
	}
	return exit.Report(stderr, program, t.vm.Name, macvtapUp(program, t, stderr))
}

func macvtapUp(program string, t target, stderr io.Writer) error {
	plan, err := t.plan()
	if err != nil {
		return err
	}
	account, err := t.vm.Host.Account()
	if err != nil {
		return err
	}
	err = waiting(program, t.vm.Name, stderr, func(ctx context.Context, p *wait.Patience) error {
		return awaitParents(ctx, p, plan.Macvtaps)
	})
	if err != nil {
		return err
	}
	set := netif.Macvtaps{Alias: netif.Alias(t.vm.Name), Owner: account.UID, Group: account.GID, NodeDir: "/dev"}
	for _, m := range plan.Macvtaps {
		set.Macvtaps = append(set.Macvtaps, netif.Macvtap{Name: m.ID, Link: m.Link, MAC: m.MAC, Mode: m.Mode})
	}
	var before netif.Record
	if _, err := t.vm.ReadRecord(unit.Macvtaps.Record, &before); err != nil {
		return err
	}
	return set.Up(context.Background(), before, func(r netif.Record) error { return t.vm.WriteRecord(unit.Macvtaps.Record, r) })
}
