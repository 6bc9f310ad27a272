package start

import (
	"errors"
	"fmt"
	"syscall"
)

// setIDs gives up root for good. The syscall package changes every thread.
func setIDs(uid, gid int, groups []int) error {
	err := errors.Join(syscall.Setgroups(groups), syscall.Setresgid(gid, gid, gid), syscall.Setresuid(uid, uid, uid))
	if err != nil {
		return fmt.Errorf("become user %d, group %d: %w", uid, gid, err)
	}
	return nil
}
