package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// Command runs microvm commands on one host.
type Command struct {
	Host           statedir.Host
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// BinDir is the directory of this command, Host.LibexecDir that of the helper
	// programs. Both are written into the packages that build makes.
	BinDir  string
	Version string
}

func (c *Command) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stdout, format, args...)
}

func (c *Command) json(v any) error {
	e := json.NewEncoder(c.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// unprivileged returns the account under which root runs programs that a package
// names. It returns nil if the account does not exist, or if we are not root.
func (c *Command) unprivileged() *syscall.Credential {
	account, err := c.Host.Account()
	if err != nil || os.Geteuid() != 0 {
		return nil
	}
	return account.Alone()
}

// useSudo is the hint of errors that root would not get.
const useSudo = "run it with sudo"

// needsRoot returns an error if the caller is not root; action is what they asked
// for, as in "creating a VM".
func needsRoot(action string) error {
	if os.Geteuid() != 0 {
		return exit.WithHint(fmt.Errorf("%s requires root", action), useSudo)
	}
	return nil
}
