package vm

import (
	"fmt"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
)

// PlanAt returns the plan of the package at path, and whether it could be read.
func PlanAt(path string) (*hypervisor.Plan, bool) {
	p, err := runner.Open(path)
	if err != nil {
		return nil, false
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	return plan, err == nil
}

// NotRunning returns the error for a VM that is not running.
func NotRunning(v statedir.VM) error {
	return exit.WithHint(fmt.Errorf("%s is not running", v.Name), "start it with: microvm start %s", v.Name)
}

// RunningPlan returns the plan that a VM runs with, or the error of NotRunning.
func RunningPlan(v statedir.VM) (*hypervisor.Plan, error) {
	if v.BootedTarget() == "" {
		return nil, NotRunning(v)
	}
	p, err := v.Booted()
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	return p.Plan()
}
