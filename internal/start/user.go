package start

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"microvm/internal/account"
)

// switchUser switches to a user if this process runs as root, without a unit. name
// may be "", for none.
func switchUser(name string) error {
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	return becomeUser(name)
}

// becomeUser switches all threads to a user and its groups.
func becomeUser(name string) error {
	a, err := account.Lookup(name)
	if err != nil {
		return fmt.Errorf("user: %w", err)
	}
	return setIDs(a.UID, a.GID, a.Groups)
}

// setIDs gives up root for good, in every thread, as the syscall package does.
func setIDs(uid, gid int, groups []int) error {
	err := errors.Join(syscall.Setgroups(groups), syscall.Setresgid(gid, gid, gid), syscall.Setresuid(uid, uid, uid))
	if err != nil {
		return fmt.Errorf("switch to uid %d, gid %d: %w", uid, gid, err)
	}
	return nil
}
