package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"

	"microvm/internal/statedir"
)

// Command is the microvm command of one host.
type Command struct {
	Host           statedir.Host
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// BinDir holds this command, Host.LibexecDir the helper programs; both go into the
	// packages that build makes.
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

// unprivileged is the user as whom root runs what a package names; nil where
// there is no such user, or we are not root.
func (c *Command) unprivileged() *syscall.Credential {
	account, err := c.Host.Account()
	if err != nil || os.Geteuid() != 0 {
		return nil
	}
	return account.Alone()
}

func needsRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root can %s; run it with sudo", what)
	}
	return nil
}
