package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// named says whether a word that may be a path as well is the name of a VM,
// whatever else is called so in the current directory: ./NAME is a path.
func (c *Command) named(word string) bool {
	v, err := c.Host.VM(word)
	return err == nil && v.Exists()
}

// anyVM returns a VM that need not exist. Only a bad name is wrong usage.
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
		return v, errNoVM{name, filepath.Clean(c.Host.StateDir)}
	}
	return v, nil
}

// selection are the VMs that a command line names, and the names of which there is
// no VM.
type selection struct {
	vms     []statedir.VM
	missing []errNoVM
}

// outcome makes one error of the names of which there is no VM, and of what went
// wrong with VMs, a nil for each with which nothing did.
func (s selection) outcome(errs []error) error {
	all := make([]error, 0, len(s.missing)+len(errs))
	for _, m := range s.missing {
		all = append(all, m)
	}
	return several(append(all, errs...), len(s.missing)+len(s.vms))
}

// vms returns the VMs of names, each once. A name that is none is wrong usage.
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

// notInstalled returns the error of a VM of which there is only data.
func notInstalled(v statedir.VM) error {
	return fmt.Errorf("%s has no runner, only data in %s; install it with: microvm create %s", v.Name, v.Dir(), v.Name)
}

// eachVM does something with each VM of names, the next one whatever became of
// the one before.
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
