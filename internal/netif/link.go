package netif

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// interruptedTries limits how often a dump that the kernel marks as inconsistent
// (NLM_F_DUMP_INTR) is requested.
const interruptedTries = 10

// links returns all interfaces.
func links() ([]netlink.Link, error) {
	for range interruptedTries {
		all, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list network interfaces: %w", err)
		}
		return all, nil
	}
	return nil, fmt.Errorf("list network interfaces: interrupted by changes %d times", interruptedTries)
}

// byName returns a map of interfaces by name.
func byName(all []netlink.Link) map[string]netlink.Link {
	out := make(map[string]netlink.Link, len(all))
	for _, l := range all {
		out[l.Attrs().Name] = l
	}
	return out
}

// freeGroup returns a link group that no interface is in. Group 0 is the default group.
func freeGroup(all []netlink.Link) uint32 {
	used := map[uint32]bool{0: true}
	for _, l := range all {
		used[l.Attrs().Group] = true
	}
	for {
		// Larger than numbers that people choose, and positive as an int32.
		if g := 1<<30 | rand.Uint32N(1<<30); !used[g] { //nolint:gosec // not a secret
			return g
		}
	}
}

// adopt sets alias and group of an interface and brings it up, in one request.
func adopt(index int, alias string, group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Flags = unix.IFF_UP
	msg.Change = unix.IFF_UP
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// deleteGroup deletes all interfaces of a link group in one transaction of the kernel.
// That takes one RCU grace period instead of one for each interface.
func deleteGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// deleteAll deletes the interfaces doomed, a part of all: by group if the group has
// exactly those, otherwise one by one. It is not an error if one no longer exists.
func deleteAll(all, doomed []netlink.Link, group uint32) error {
	members := 0
	for _, l := range all {
		if l.Attrs().Group == group {
			members++
		}
	}
	together := group != 0 && members == len(doomed)
	for _, l := range doomed {
		together = together && l.Attrs().Group == group
	}
	if together && len(doomed) > 1 {
		if err := deleteGroup(group); err == nil {
			return nil
		}
	}
	var errs error
	for _, l := range doomed {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = errors.Join(errs, fmt.Errorf("delete interface %q: %w", l.Attrs().Name, err))
		}
	}
	return errs
}

// describe returns a description of an interface for messages, such as "a bridge
// interface".
func describe(l netlink.Link) string {
	a := l.Attrs()
	what := "a " + l.Type() + " interface"
	if l.Type() == "device" {
		what = "a physical interface"
	}
	if a.Alias != "" {
		what += fmt.Sprintf(" with alias %q", a.Alias)
	}
	return what
}
