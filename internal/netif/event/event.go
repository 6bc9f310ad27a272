// Package event watches for changes of the host's network interfaces and devices. It
// reports only that something has changed, and its users then check the state
// themselves, so a lost or forged message does no harm.
//
// It is a package of its own for programs that need no more of netlink than this, and
// start faster without the rest of netif.
package event

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Groups of NETLINK_KOBJECT_UEVENT: the kernel's messages, and those that udev sends
// after it has run its rules, lib/kobject_uevent.c and libudev. Listening needs no
// privilege.
const (
	fromKernel = 1 << 0
	fromUdev   = 1 << 1
)

// Links returns a file that becomes readable when an interface of this network
// namespace is added, removed or changed, rtnetlink(7). The caller closes it.
func Links() (*os.File, error) {
	return listen("network interfaces", unix.NETLINK_ROUTE, unix.RTMGRP_LINK)
}

// Devices returns a file that becomes readable when a device is added, removed or
// changed, and when udev has processed one. The caller closes it.
func Devices() (*os.File, error) {
	return listen("devices", unix.NETLINK_KOBJECT_UEVENT, fromKernel|fromUdev)
}

// listen returns a socket of the given netlink groups. what is for messages.
func listen(what string, protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", what, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", what, err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
