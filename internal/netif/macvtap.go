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

	"microvm/internal/safepath"
	"microvm/internal/wait"
)

// nodeTimeout bounds the wait for /dev/tapN: devtmpfs makes it before the
// kernel answers, a device manager of another kind soon after.
const nodeTimeout = 10 * time.Second

// Macvtap is one macvtap interface to be made.
type Macvtap struct {
	// Name of the interface on the host, Link the one that it stands on.
	Name, Link string
	// MAC of the guest.
	MAC string
	// Mode is private, vepa, bridge, passthru or source, ip-link(8).
	Mode string
}

// Macvtaps are the macvtap interfaces of one VM.
type Macvtaps struct {
	// Alias is set on each interface and says whose it is.
	Alias string
	// Owner and Group get the interfaces' character devices, mode 0660.
	Owner, Group int
	// Macvtaps to be made.
	Macvtaps []Macvtap
	// NodeDir is where the devices appear, /dev.
	NodeDir string
}

var macvtapModes = map[string]netlink.MacvlanMode{
	"private":  netlink.MACVLAN_MODE_PRIVATE,
	"vepa":     netlink.MACVLAN_MODE_VEPA,
	"bridge":   netlink.MACVLAN_MODE_BRIDGE,
	"passthru": netlink.MACVLAN_MODE_PASSTHRU,
	"source":   netlink.MACVLAN_MODE_SOURCE,
}

// Up makes the interfaces, hands their devices over and raises them, or makes none.
// before and save are as for Taps.Up. An interface of ours that exists is made anew,
// because what it stands on may have changed.
func (m Macvtaps) Up(ctx context.Context, before Record, save func(Record) error) error {
	u := transaction{kind: "macvtap", alias: m.Alias, ours: m.ours}
	for _, v := range m.Macvtaps {
		u.devices = append(u.devices, ownedMacvtap{v, m})
	}
	return u.up(ctx, before, save)
}

// ours returns nil where an existing interface may be replaced.
func (m Macvtaps) ours(l netlink.Link, before Record) error {
	a := l.Attrs()
	_, recorded := before.Interfaces[a.Name]
	if l.Type() == "macvtap" && (a.Alias == m.Alias || recorded && a.Alias == "" || unclaimedMacvtap(l, m.Owner, m.NodeDir)) {
		return nil
	}
	return fmt.Errorf("create macvtap %q: the name is taken by %s; rename that, or give the VM's interface another id", a.Name, describe(l))
}

// ownedMacvtap is a macvtap with those that its device is for.
type ownedMacvtap struct {
	Macvtap
	of Macvtaps
}

func (v ownedMacvtap) name() string { return v.Name }

func (v ownedMacvtap) fits(netlink.Link) bool { return false }

func (v ownedMacvtap) raiseHint() string { return fmt.Sprintf("; is %q up?", v.Link) }

// create makes one interface and hands its device over.
func (v ownedMacvtap) create(ctx context.Context, group uint32) (int, error) {
	number, err := v.add(group)
	if err != nil {
		return 0, err
	}
	return number, v.of.handOver(ctx, v.Name, number)
}

// unclaimedMacvtap reports whether microvm.nix made the interface for the account owner,
// which has its device, and left it without a word of whose it is.
func unclaimedMacvtap(l netlink.Link, owner int, nodeDir string) bool {
	if l.Type() != "macvtap" || l.Attrs().Alias != "" {
		return false
	}
	var st unix.Stat_t
	err := unix.Lstat(fmt.Sprintf("%s/tap%d", nodeDir, l.Attrs().Index), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && int(st.Uid) == owner
}

// add makes the interface and returns its index.
func (v Macvtap) add(group uint32) (int, error) {
	all, err := links()
	if err != nil {
		return 0, err
	}
	parent := byName(all)[v.Link]
	if parent == nil {
		return 0, fmt.Errorf("create macvtap %q: there is no interface %q to stand on; correct macvtap.link, or bring that interface up before the VM", v.Name, v.Link)
	}
	if err := free(v, parent, all); err != nil {
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
		return 0, fmt.Errorf("create macvtap %q on %q, mode %s: %w%s", v.Name, v.Link, v.Mode, err, macvtapRemedy(err))
	}
	number, err := Index(v.Name)
	if err != nil {
		return 0, err
	}
	link.Index = number
	if v.Mode == "passthru" {
		// The kernel gives it the address of what it stands on; setting another
		// changes that one, too, until the interface is deleted.
		if err := netlink.LinkSetHardwareAddr(link, attrs.HardwareAddr); err != nil {
			return 0, fmt.Errorf("set the address of macvtap %q: %w", v.Name, err)
		}
	}
	if err := netlink.LinkSetAllmulticastOn(link); err != nil {
		return 0, fmt.Errorf("turn allmulticast on for macvtap %q: %w", v.Name, err)
	}
	// The host is not to speak with the guest's address.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+v.Name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("turn IPv6 off on macvtap %q: %w", v.Name, err)
	}
	return number, nil
}

// free says why the parent cannot take one more interface, in words that the
// kernel's error number does not have.
func free(v Macvtap, parent netlink.Link, all []netlink.Link) error {
	for _, l := range all {
		a := l.Attrs()
		if a.ParentIndex != parent.Attrs().Index || !strings.HasPrefix(l.Type(), "macv") {
			continue
		}
		if strings.EqualFold(a.HardwareAddr.String(), v.MAC) {
			return fmt.Errorf("create macvtap %q: %s is already the address of %q on %q; give the VM's interface another mac", v.Name, v.MAC, a.Name, v.Link)
		}
		if v.Mode == "passthru" {
			return fmt.Errorf("create macvtap %q: mode passthru needs %q for itself, and %q stands on it; take another mode or interface", v.Name, v.Link, a.Name)
		}
		if mode, ok := modeOf(l); ok && mode == netlink.MACVLAN_MODE_PASSTHRU {
			return fmt.Errorf("create macvtap %q: %q stands on %q in mode passthru and has it for itself; take another interface", v.Name, a.Name, v.Link)
		}
	}
	if strings.EqualFold(parent.Attrs().HardwareAddr.String(), v.MAC) && v.Mode != "passthru" {
		return fmt.Errorf("create macvtap %q: %s is the address of %q itself; give the VM's interface another mac", v.Name, v.MAC, v.Link)
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

func macvtapRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return "; load the module with: modprobe macvtap"
	case errors.Is(err, unix.EPERM):
		return "; run as root (CAP_NET_ADMIN)"
	case errors.Is(err, unix.EBUSY):
		return "; the interface below is used in a way that excludes this, such as a bridge's port"
	}
	return ""
}

// handOver gives /dev/tapN to the hypervisors' account, after making sure that
// it is the interface's device.
func (m Macvtaps) handOver(ctx context.Context, name string, number int) error {
	file := fmt.Sprintf("tap%d", number)
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	node, err := waitNode(ctx, m.NodeDir, file)
	if err != nil {
		return fmt.Errorf("wait for %s/%s of macvtap %q: %w; is devtmpfs mounted there?", m.NodeDir, file, name, err)
	}
	defer func() { _ = unix.Close(node) }()
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return fmt.Errorf("look at %s/%s: %w", m.NodeDir, file, err)
	}
	want, err := os.ReadFile(fmt.Sprintf("/sys/class/net/%s/%s/dev", name, file))
	if err == nil && strings.TrimSpace(string(want)) != fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) {
		return fmt.Errorf("%s/%s is not the device of macvtap %q; remove it", m.NodeDir, file, name)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fmt.Errorf("%s/%s is no character device; remove it", m.NodeDir, file)
	}
	if err := safepath.GiveNode(node, safepath.As{Mode: 0o660, UID: m.Owner, GID: m.Group}); err != nil {
		return fmt.Errorf("hand %s/%s over: %w", m.NodeDir, file, err)
	}
	return nil
}

// waitNode waits for a file to appear in dir, and returns a handle on it that cannot come
// to mean another file.
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
