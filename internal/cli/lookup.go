package cli

import (
	"errors"
	"fmt"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// named reports whether an argument that may be a path or a name is the name of a VM,
// even if the current directory has an entry of that name. ./NAME is always a path.
func (c *Command) named(pathOrName string) bool {
	v, err := c.Host.VM(pathOrName)
	return err == nil && v.Exists()
}

// anyVM returns a VM that need not exist. An invalid name is a usage error.
func (c *Command) anyVM(name string) (statedir.VM, error) {
	if _, err := c.Host.RealStateDir(); err != nil {
		return statedir.VM{}, err
	}
	v, err := c.Host.VM(name)
	if err != nil {
		return v, exit.Usage(err)
	}
	return v, nil
}

// vm returns an existing VM.
func (c *Command) vm(name string) (statedir.VM, error) {
	v, err := c.anyVM(name)
	if err != nil {
		return v, err
	}
	if !v.Exists() {
		return v, errNoVM{name}
	}
	return v, nil
}

// selection is the VMs that a command line names, and those that were not found.
type selection struct {
	vms     []statedir.VM
	missing []errNoVM
}

// outcome returns one error for the VMs that were not found and for errs, which has one
// error or nil for each of the others.
func (s selection) outcome(errs []error) error {
	all := make([]error, 0, len(s.missing)+len(errs))
	for _, m := range s.missing {
		all = append(all, m)
	}
	return several(append(all, errs...), len(s.missing)+len(s.vms))
}

// vms returns the VMs of names, each once. An invalid name is a usage error.
func (c *Command) vms(names []string) (selection, error) {
	var s selection
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		v, err := c.vm(name)
		var missing errNoVM
		switch {
		case errors.As(err, &missing):
			s.missing = append(s.missing, missing)
		case err != nil:
			return selection{}, err
		default:
			s.vms = append(s.vms, v)
		}
	}
	return s, nil
}

// notInstalled returns the error of a VM that has data, but no package.
func notInstalled(v statedir.VM) error {
	return exit.WithHint(fmt.Errorf("%s has no runner package, only data in %s", v.Name, v.Dir()), "install it with: microvm create %s", v.Name)
}

// eachVM calls do for each VM of names. It goes on after errors, and returns all of them.
func (c *Command) eachVM(names []string, do func(statedir.VM) error) error {
	s, err := c.vms(names)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range s.vms {
		errs = append(errs, do(v))
	}
	return s.outcome(errs)
}
