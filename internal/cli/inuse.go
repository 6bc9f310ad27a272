package cli

import (
	"os"

	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

// byHand is the directory in which a package by hand runs.
const byHand = "."

// openInUse opens what inUse finds. Root reads a VM's package only if it is
// root's; a package by hand is that of whoever names it.
func openInUse(c *Command, word string) (p *runner.Package, dir string, err error) {
	path, dir, err := inUse(c, word)
	if err != nil {
		return nil, "", err
	}
	open := runner.Open
	if os.Geteuid() == 0 && dir != byHand {
		open = runner.OpenTrusted
	}
	p, err = open(path)
	return p, dir, err
}

// inUse is the package that a running VM was started with, and where it runs:
// that of a VM, or one that is run by hand in the current directory.
func inUse(c *Command, word string) (path, dir string, err error) {
	if info, err := os.Stat(word); !c.named(word) && err == nil && info.IsDir() {
		return word, byHand, nil
	}
	v, err := c.vm(word)
	if err != nil {
		return "", "", err
	}
	if v.BootedTarget() == "" {
		return "", "", vm.NotRunning(v)
	}
	return v.BootedLink(), v.Dir(), nil
}

// runners are the users as whom a VM in dir may run: the hypervisors', and who
// asks, for what he runs himself. Root runs no installed VM.
func runners(host statedir.Host, dir string) []int {
	var users []int
	if self := os.Geteuid(); self != 0 || dir == byHand {
		users = append(users, self)
	}
	if account, err := host.Account(); err == nil {
		users = append(users, account.UID)
	}
	return users
}
