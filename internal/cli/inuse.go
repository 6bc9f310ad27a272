package cli

import (
	"os"

	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

// manualDir is the directory in which a package runs that was started manually.
const manualDir = "."

// openInUse opens the package that inUse finds. Root opens the package of a VM only if
// nobody else can change it; a package that was started manually is the caller's choice.
func openInUse(c *Command, dirOrName string) (p *runner.Package, dir string, err error) {
	path, dir, err := inUse(c, dirOrName)
	if err != nil {
		return nil, "", err
	}
	open := runner.Open
	if os.Geteuid() == 0 && dir != manualDir {
		open = runner.OpenTrusted
	}
	p, err = open(path)
	return p, dir, err
}

// inUse returns the package that a running VM was started with, and the directory in
// which it runs. dirOrName is a VM's name, or a package that was started manually in the
// current directory.
func inUse(c *Command, dirOrName string) (path, dir string, err error) {
	if info, err := os.Stat(dirOrName); !c.named(dirOrName) && err == nil && info.IsDir() {
		return dirOrName, manualDir, nil
	}
	v, err := c.vm(dirOrName)
	if err != nil {
		return "", "", err
	}
	if v.BootedTarget() == "" {
		return "", "", vm.NotRunning(v)
	}
	return v.BootedLink(), v.Dir(), nil
}

// runners returns the users who may run a VM in dir: the hypervisors' user, and the
// caller, for what they run themselves. Root never runs an installed VM as root.
func runners(host statedir.Host, dir string) []int {
	var users []int
	if self := os.Geteuid(); self != 0 || dir == manualDir {
		users = append(users, self)
	}
	if account, err := host.Account(); err == nil {
		users = append(users, account.UID)
	}
	return users
}
