package netif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
	"microvm/internal/wait"
)

// nodeTimeout limits the wait for /dev/tapN. devtmpfs creates it before the kernel
// answers, another device manager soon after.
const nodeTimeout = 10 * time.Second

// Macvtap is a macvtap interface to be created.
type Macvtap struct {
	// Name is its name on the host, Link the interface that it is attached to.
	Name, Link string
	// MAC is the guest's address.
	MAC string
	// Mode is private, vepa, bridge, passthru or source, ip-link(8).
	Mode string
}

// Macvtaps are the macvtap interfaces of one VM.
type Macvtaps struct {
	// Alias is set on each interface and identifies its VM, see Alias.
	Alias string
	// Owner and Group become the owner of the character devices, which get mode 0660.
	Owner, Group int
	// Macvtaps are the interfaces to be created.
	Macvtaps []Macvtap
	// NodeDir is the directory of the character devices, /dev.
	NodeDir string
}

// Hints for interfaces that cannot be created as they are.
const (
	otherID  = "give the VM's interface another id"
	otherMAC = "give the VM's interface another mac"
)

var macvtapModes = map[string]netlink.MacvlanMode{
	"private":  netlink.MACVLAN_MODE_PRIVATE,
	"vepa":     netlink.MACVLAN_MODE_VEPA,
	"bridge":   netlink.MACVLAN_MODE_BRIDGE,
	"passthru": netlink.MACVLAN_MODE_PASSTHRU,
	"source":   netlink.MACVLAN_MODE_SOURCE,
}

// Up creates the interfaces, hands their devices to Owner and brings them up; if it
// fails, it removes those that it created. before and save are as for Taps.Up. An
// existing interface of the VM is created again, because Link may have changed.
func (m Macvtaps) Up(ctx context.Context, before Record, save func(Record) error) error {
	u := transaction{kind: "macvtap", alias: m.Alias, ours: m.ours}
	for _, v := range m.Macvtaps {
		u.devices = append(u.devices, ownedMacvtap{v, m})
	}
	return u.up(ctx, before, save)
}

// ours returns nil if the existing interface l may be replaced.
func (m Macvtaps) ours(l netlink.Link, before Record) error {
	a := l.Attrs()
	_, recorded := before.Interfaces[a.Name]
	if l.Type() == "macvtap" && (a.Alias == m.Alias || recorded && a.Alias == "" || unclaimedMacvtap(l, m.Owner, m.NodeDir)) {
		return nil
	}
	return exit.WithHint(fmt.Errorf("create macvtap %q: the name is taken by %s", a.Name, describe(l)), "rename that interface, or %s", otherID)
}

// ownedMacvtap is a macvtap and the set that it belongs to.
type ownedMacvtap struct {
	Macvtap
	of Macvtaps
}

func (v ownedMacvtap) name() string { return v.Name }

func (v ownedMacvtap) fits(netlink.Link) bool { return false }

func (v ownedMacvtap) raiseHint() string { return fmt.Sprintf("check that interface %q is up", v.Link) }

// create creates the interface and hands its device to the owner.
func (v ownedMacvtap) create(ctx context.Context, group uint32) (int, error) {
	number, err := v.add(group)
	if err != nil {
		return 0, err
	}
	return number, v.of.handOver(ctx, v.Name, number)
}

// unclaimedMacvtap reports whether l is a macvtap without an alias whose device belongs
// to owner: microvm.nix creates those, without a mark of the VM.
func unclaimedMacvtap(l netlink.Link, owner int, nodeDir string) bool {
	if l.Type() != "macvtap" || l.Attrs().Alias != "" {
		return false
	}
	var st unix.Stat_t
	err := unix.Lstat(fmt.Sprintf("%s/tap%d", nodeDir, l.Attrs().Index), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && int(st.Uid) == owner
}

// add creates the interface in a link group and returns its index.
func (v Macvtap) add(group uint32) (int, error) {
	all, err := links()
	if err != nil {
		return 0, err
	}
	parent := byName(all)[v.Link]
	if parent == nil {
		return 0, exit.WithHint(fmt.Errorf("create macvtap %q: interface %q not found", v.Name, v.Link),
			"correct macvtap.link, or create that interface before the VM starts")
	}
	if err := checkFree(v, parent, all); err != nil {
		return 0, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = v.Name
	attrs.ParentIndex = parent.Attrs().Index
	attrs.Group = group
	if attrs.HardwareAddr, err = net.ParseMAC(v.MAC); err != nil {
		return 0, fmt.Errorf("create macvtap %q: %w", v.Name, err)
	}
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: macvtapModes[v.Mode]}}
	if err := netlink.LinkAdd(link); err != nil {
		return 0, withHint(fmt.Errorf("create macvtap %q on %q, mode %s: %w", v.Name, v.Link, v.Mode, err), macvtapHint(err))
	}
	number, err := Index(v.Name)
	if err != nil {
		return 0, err
	}
	link.Index = number
	if v.Mode == "passthru" {
		// The kernel gives it the address of its parent. Setting another one changes
		// that of the parent as well, until the macvtap is deleted.
		if err := netlink.LinkSetHardwareAddr(link, attrs.HardwareAddr); err != nil {
			return 0, fmt.Errorf("set address of macvtap %q: %w", v.Name, err)
		}
	}
	if err := netlink.LinkSetAllmulticastOn(link); err != nil {
		return 0, fmt.Errorf("enable allmulticast on macvtap %q: %w", v.Name, err)
	}
	// The host itself must not use the guest's address.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+v.Name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("disable IPv6 on macvtap %q: %w", v.Name, err)
	}
	return number, nil
}

// checkFree returns an error if the parent cannot have v as one more interface. The
// kernel would only answer EBUSY or EADDRINUSE.
func checkFree(v Macvtap, parent netlink.Link, all []netlink.Link) error {
	for _, l := range all {
		a := l.Attrs()
		if a.ParentIndex != parent.Attrs().Index || !strings.HasPrefix(l.Type(), "macv") {
			continue
		}
		if strings.EqualFold(a.HardwareAddr.String(), v.MAC) {
			return exit.WithHint(fmt.Errorf("create macvtap %q: %s is already the address of %q on %q", v.Name, v.MAC, a.Name, v.Link), otherMAC)
		}
		if v.Mode == "passthru" {
			return exit.WithHint(fmt.Errorf("create macvtap %q: mode passthru needs %q exclusively, but %q is attached to it", v.Name, v.Link, a.Name), "choose another macvtap.mode or macvtap.link")
		}
		if mode, ok := modeOf(l); ok && mode == netlink.MACVLAN_MODE_PASSTHRU {
			return exit.WithHint(fmt.Errorf("create macvtap %q: %q has %q exclusively, in mode passthru", v.Name, a.Name, v.Link), "choose another macvtap.link")
		}
	}
	if strings.EqualFold(parent.Attrs().HardwareAddr.String(), v.MAC) && v.Mode != "passthru" {
		return exit.WithHint(fmt.Errorf("create macvtap %q: %s is the address of %q itself", v.Name, v.MAC, v.Link), otherMAC)
	}
	return nil
}

func modeOf(l netlink.Link) (netlink.MacvlanMode, bool) {
	switch l := l.(type) {
	case *netlink.Macvtap:
		return l.Mode, true
	case *netlink.Macvlan:
		return l.Mode, true
	}
	return 0, false
}

// macvtapHint returns what to do about an error of the kernel, "" if that is unknown.
func macvtapHint(err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return "load the module with: modprobe macvtap"
	case errors.Is(err, unix.EPERM):
		return "run as root (CAP_NET_ADMIN)"
	case errors.Is(err, unix.EBUSY):
		return "check whether that interface is in use otherwise, such as by a bridge"
	}
	return ""
}

// handOver gives /dev/tapN to Owner and Group, after a check that it is the device of
// this interface.
func (m Macvtaps) handOver(ctx context.Context, name string, number int) error {
	file := fmt.Sprintf("tap%d", number)
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	node, err := waitNode(ctx, m.NodeDir, file)
	if err != nil {
		return exit.WithHint(fmt.Errorf("wait for %s/%s of macvtap %q: %w", m.NodeDir, file, name, err), "check that devtmpfs is mounted at %s", m.NodeDir)
	}
	defer func() { _ = unix.Close(node) }()
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return fmt.Errorf("stat %s/%s: %w", m.NodeDir, file, err)
	}
	want, err := os.ReadFile(fmt.Sprintf("/sys/class/net/%s/%s/dev", name, file))
	if err == nil && strings.TrimSpace(string(want)) != fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) {
		return exit.WithHint(fmt.Errorf("%s/%s is not the device of macvtap %q", m.NodeDir, file, name), "remove it")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return exit.WithHint(fmt.Errorf("%s/%s is not a character device", m.NodeDir, file), "remove it")
	}
	if err := safepath.GiveNode(node, safepath.As{Mode: 0o660, UID: m.Owner, GID: m.Group}); err != nil {
		return fmt.Errorf("change owner of %s/%s: %w", m.NodeDir, file, err)
	}
	return nil
}

// waitNode waits for a file to appear in dir and returns a handle of it, which keeps
// referring to that file. The caller closes it.
func waitNode(ctx context.Context, dir, file string) (node int, err error) {
	err = wait.InDir(ctx, dir, func() (bool, error) {
		node, err = unix.Open(dir+"/"+file, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return err == nil, err
	})
	return node, err
}
