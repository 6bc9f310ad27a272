// Package account looks up users of the host with all their groups.
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
	// GID is the primary group. Groups are the supplementary groups and may contain
	// GID again.
	GID    int
	Groups []int
}

// Lookup returns the user of that name with its primary and supplementary groups,
// passwd(5) and group(5).
func Lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("look up groups of user %s: %w", name, err)
	}
	var a Account
	if a.UID, err = number("user", name, u.Uid); err != nil {
		return Account{}, err
	}
	if a.GID, err = number("primary group of user", name, u.Gid); err != nil {
		return Account{}, err
	}
	for _, id := range ids {
		n, err := number("group of user", name, id)
		if err != nil {
			return Account{}, err
		}
		a.Groups = append(a.Groups, n)
	}
	return a, nil
}

// Group returns the ID of the group of that name.
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
		return 0, fmt.Errorf("invalid ID of %s %s: %w", what, name, err)
	}
	return n, nil
}

// All returns all groups of the user, the primary one first.
func (a Account) All() []int { return append([]int{a.GID}, a.Groups...) }

// Credential returns the credentials of a program that runs as the user with all
// groups, as systemd does for User= and Group=, systemd.exec(5).
func (a Account) Credential() *syscall.Credential {
	c := a.Alone()
	for _, g := range a.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// Alone returns credentials without supplementary groups, for a program that a spec
// or a package names: it gets no rights from the user's other groups.
func (a Account) Alone() *syscall.Credential {
	return &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID)}
}
