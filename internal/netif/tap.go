package netif

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tap is one tap interface to be made.
type Tap struct {
	// Name of the interface on the host.
	Name string
	// VnetHdr and MultiQueue are the flags IFF_VNET_HDR and IFF_MULTI_QUEUE of
	// the kernel's document networking/tuntap.
	VnetHdr, MultiQueue bool
}

// Taps are the tap interfaces of one VM.
type Taps struct {
	// Alias is set on each interface and says whose it is.
	Alias string
	// Owner is the uid that may attach to the interfaces.
	Owner int
	// Taps to be made.
	Taps []Tap
	// Script, where not empty, runs for each interface, with its name in $id.
	Script string
}

// Up makes the interfaces and raises them, or none. before is what an earlier Up
// recorded, if anything. save is called with a record before anything is made, so
// that Record.Down can undo a call that was killed, and again at the end.
func (t Taps) Up(before Record, save func(Record) error) error {
	u := transaction{kind: "tap", alias: t.Alias, ours: t.ours, raised: t.runScript}
	for _, tap := range t.Taps {
		u.devices = append(u.devices, ownedTap{tap, t.Owner})
	}
	return u.up(context.Background(), before, save)
}

// ownedTap is a tap with the uid that may attach to it.
type ownedTap struct {
	Tap
	owner int
}

func (t ownedTap) name() string { return t.Name }

func (t ownedTap) raiseHint() string { return "" }

// ours returns nil where an existing interface may be kept or replaced.
func (t Taps) ours(l netlink.Link, before Record) error {
	a := l.Attrs()
	tap, isTap := l.(*netlink.Tuntap)
	if !isTap || tap.Mode != netlink.TUNTAP_MODE_TAP {
		return fmt.Errorf("create tap %q: the name is taken by %s; rename that, or give the VM's interface another id", a.Name, describe(l))
	}
	// A call that was killed may have left a tap that has no alias yet.
	_, recorded := before.Interfaces[a.Name]
	if a.Alias == t.Alias || recorded && a.Alias == "" || unclaimed(l, t.Owner) {
		return nil
	}
	if a.Alias == "" && int(tap.Owner) == t.Owner {
		return fmt.Errorf("create tap %q: a hypervisor that runs uses the interface of that name\nhint: stop it, or give the VM's interface another id", a.Name)
	}
	return fmt.Errorf("create tap %q: the name is taken by %s; give the VM's interface another id, or remove that one with: ip link delete %s", a.Name, describe(l), a.Name)
}

// unclaimed reports whether an existing tap was made for the account owner by somebody
// else, such as microvm.nix or systemd-networkd (Kind=tap, User=microvm), and nobody
// uses it: it stays without a process, and has no carrier, which a tap has while a
// process is attached.
func unclaimed(l netlink.Link, owner int) bool {
	tap, ok := l.(*netlink.Tuntap)
	return ok && tap.Mode == netlink.TUNTAP_MODE_TAP && !tap.NonPersist && int(tap.Owner) == owner &&
		tap.Attrs().Alias == "" && tap.Attrs().RawFlags&unix.IFF_LOWER_UP == 0
}

// RemoveUnclaimed removes those of the named interfaces that microvm.nix made for
// the hypervisors' account owner and left: taps, and macvtaps whose device below
// nodeDir, /dev, is the account's.
func RemoveUnclaimed(names []string, owner int, nodeDir string) error {
	all, err := links()
	if err != nil {
		return err
	}
	var doomed []netlink.Link
	for _, l := range all {
		if slices.Contains(names, l.Attrs().Name) && (unclaimed(l, owner) || unclaimedMacvtap(l, owner, nodeDir)) {
			doomed = append(doomed, l)
		}
	}
	return deleteAll(all, doomed, 0)
}

// fits reports whether an existing tap of ours can serve as it is.
func (t ownedTap) fits(l netlink.Link) bool {
	tap, ok := l.(*netlink.Tuntap)
	if !ok {
		return false
	}
	flag := func(f netlink.TuntapFlag) bool { return tap.Flags&f != 0 }
	return int(tap.Owner) == t.owner && !tap.NonPersist &&
		flag(netlink.TUNTAP_NO_PI) &&
		flag(netlink.TUNTAP_VNET_HDR) == t.VnetHdr &&
		flag(netlink.TUNTAP_MULTI_QUEUE) == t.MultiQueue
}

// create makes a persistent tap and returns its index.
func (t ownedTap) create(context.Context, uint32) (int, error) {
	fail := func(action string, err error) (int, error) {
		return 0, fmt.Errorf("create tap %q: %s: %w%s", t.Name, action, err, tunRemedy(err))
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open /dev/net/tun", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(t.Name)
	if err != nil {
		return fail("name", err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if t.VnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if t.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fail("TUNSETIFF", err)
	}
	// The group stays unset: with one, the hypervisor's user would have to be a
	// member of it, too.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, t.owner); err != nil {
		return fail("TUNSETOWNER", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fail("TUNSETPERSIST", err)
	}
	return Index(t.Name)
}

// Index returns the index of an interface. It asks by ioctl, which is cheaper than
// a netlink request for all its attributes.
func Index(name string) (int, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find interface %q: %w", name, err)
	}
	defer func() { _ = unix.Close(s) }()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("find interface %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("find interface %q: %w", name, err)
	}
	return int(ifr.Uint32()), nil
}

// Exists reports whether there is an interface of that name.
func Exists(name string) bool {
	_, err := Index(name)
	return err == nil
}

func tunRemedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "; load the module with: modprobe tun"
	case errors.Is(err, unix.EPERM):
		return "; run as root (CAP_NET_ADMIN)"
	case errors.Is(err, unix.EBUSY):
		return "; an interface of that name has just been made by somebody else"
	}
	return ""
}

// scriptDelay is how long a script's output is read after it has ended.
const scriptDelay = time.Second

// runScript runs the operator's script for each interface.
func (t Taps) runScript() error {
	if t.Script == "" {
		return nil
	}
	for _, tap := range t.Taps {
		cmd := exec.Command(t.Script) //nolint:gosec // the operator's own setting
		cmd.Env = append(os.Environ(), "id="+tap.Name)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = os.Stdout, &stderr
		// What it leaves running may hold its output open.
		cmd.WaitDelay = scriptDelay
		if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("run tap script %s for %q: %w: %s", t.Script, tap.Name, err, strings.TrimSpace(stderr.String()))
		}
	}
	return nil
}
