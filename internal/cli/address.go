package cli

import (
	"fmt"

	"microvm/internal/exit"
	"microvm/internal/guest"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

const (
	// sshPort is the vsock port on which systemd-ssh-generator(8) makes sshd listen.
	sshPort = 22
	// sshUser is the user that logs in if the command line names none.
	sshUser = "root"
	// muxSocket is the vsock multiplexer's socket if the plan names none: that of
	// microvm.nix's packages, and of ours whose guest does not report over vsock.
	muxSocket = "notify.vsock"
)

// guestAddress returns the vsock address of a running VM's guest.
func guestAddress(c *Command, name string) (guest.Address, error) {
	v, err := c.vm(name)
	if err != nil {
		return guest.Address{}, err
	}
	plan, err := vm.RunningPlan(v)
	if err != nil {
		return guest.Address{}, err
	}
	return addressOf(v, plan)
}

// addressOf returns the vsock address of a guest with that plan.
func addressOf(v statedir.VM, plan *hypervisor.Plan) (guest.Address, error) {
	if plan.VsockCID == nil {
		return guest.Address{}, exit.WithHint(fmt.Errorf("%s has no vsock", v.Name),
			"set vsock.cid in its spec to a number from 3 that no other VM uses, then update and restart it")
	}
	a := guest.Address{CID: uint32(*plan.VsockCID), Dir: v.Dir(), Socket: plan.Readiness.VsockSocket}
	table, err := hypervisor.Table()
	if err != nil {
		return a, err
	}
	if a.Socket == "" && table[plan.Hypervisor].Vsock == "unix" {
		a.Socket = muxSocket
	}
	return a, nil
}
