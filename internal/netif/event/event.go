// Package event tells that the host's network interfaces or devices changed. It
// says only that something did, and whoever asked looks again: a message that
// the kernel dropped, or that somebody else sent, does no harm.
//
// It is apart from netif for programs that need nothing more of netlink than
// this, and start faster without the rest.
package event

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Groups of NETLINK_KOBJECT_UEVENT: what the kernel says, and what udev says
// once its rules ran, lib/kobject_uevent.c and libudev. No privilege is needed
// to listen.
const (
	fromKernel = 1 << 0
	fromUdev   = 1 << 1
)

// Links is readable when an interface of this network namespace came, went or
// changed, rtnetlink(7). The file is the caller's to close.
func Links() (*os.File, error) {
	return listen("network interfaces", unix.NETLINK_ROUTE, unix.RTMGRP_LINK)
}

// Devices is readable when a device came, went or changed, or when udev is done
// with one. The file is the caller's to close.
func Devices() (*os.File, error) {
	return listen("devices", unix.NETLINK_KOBJECT_UEVENT, fromKernel|fromUdev)
}

func listen(what string, protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("listen for changes of %s: %w", what, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for changes of %s: %w", what, err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
