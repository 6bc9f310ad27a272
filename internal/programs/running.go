package programs

import (
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// running returns the plan that vm was started with, and the directory of its package.
func running(vm statedir.VM) (*hypervisor.Plan, string, error) {
	p, err := vm.Booted()
	if err != nil {
		return nil, "", exit.Config(err)
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	return plan, p.Dir(), exit.Config(err)
}
