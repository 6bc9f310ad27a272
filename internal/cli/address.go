package cli

import (
	"fmt"

	"microvm/internal/guest"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

const (
	// sshPort is where systemd-ssh-generator(8) has sshd listen in a guest.
	sshPort = 22
	// sshUser is who logs in where the command line names nobody.
	sshUser = "root"
	// muxSocket is the multiplexer's socket where the plan names none: in packages
	// of microvm.nix, and in ours whose guest does not report by it.
	muxSocket = "notify.vsock"
)

// guestAddress is where the guest of a VM that runs can be reached.
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

// addressOf is where a guest with that plan can be reached.
func addressOf(v statedir.VM, plan *hypervisor.Plan) (guest.Address, error) {
	if plan.VsockCID == nil {
		return guest.Address{}, fmt.Errorf("%s has no vsock; set vsock.cid in its spec, a number from 3 on that no other VM has, update it and restart it", v.Name)
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
