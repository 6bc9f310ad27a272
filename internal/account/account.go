// Package account looks up users of the host with all that makes up their rights.
package account

import (
	"fmt"
	"os/user"
	"strconv"
	"syscall"
)

// Account is a user of the host.
type Account struct {
	UID int
	// GID is the group that what the user makes belongs to, Groups are all others
	// that the user is in, and may have GID again.
	GID    int
	Groups []int
}

// Lookup finds a user by name, in the group that the host has for him and all
// others that he is in, group(5).
func Lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("groups of user %s: %w", name, err)
	}
	var a Account
	if a.UID, err = number("user", name, u.Uid); err != nil {
		return Account{}, err
	}
	if a.GID, err = number("the group of user", name, u.Gid); err != nil {
		return Account{}, err
	}
	for _, id := range ids {
		n, err := number("a group of user", name, id)
		if err != nil {
			return Account{}, err
		}
		a.Groups = append(a.Groups, n)
	}
	return a, nil
}

// Group finds a group by name.
func Group(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return number("group", name, g.Gid)
}

func number(what, name, id string) (int, error) {
	n, err := strconv.Atoi(id)
	if err != nil {
		return 0, fmt.Errorf("%s %s has id %q: %w", what, name, id, err)
	}
	return n, nil
}

// All are all groups of the user.
func (a Account) All() []int { return append([]int{a.GID}, a.Groups...) }

// Credential is for programs that are to run as the user, with all groups, as
// systemd does it for User= and Group=, systemd.exec(5).
func (a Account) Credential() *syscall.Credential {
	c := a.Alone()
	for _, g := range a.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// Alone is for programs that somebody else named: the user in one group, without
// what the others give.
func (a Account) Alone() *syscall.Credential {
	return &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID)}
}
