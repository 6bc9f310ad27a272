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

	"microvm/internal/exit"
)

// Tap is a tap interface to be created.
type Tap struct {
	// Name is its name on the host.
	Name string
	// VnetHdr and MultiQueue set the flags IFF_VNET_HDR and IFF_MULTI_QUEUE,
	// Documentation/networking/tuntap.rst of the kernel.
	VnetHdr, MultiQueue bool
}

// Taps are the tap interfaces of one VM.
type Taps struct {
	// Alias is set on each interface and identifies its VM, see Alias.
	Alias string
	// Owner is the uid that may attach to the interfaces.
	Owner int
	// Taps are the interfaces to be created.
	Taps []Tap
	// Script is the path of a program that runs for each interface once all are up,
	// with the interface's name in $id; it may be empty.
	Script string
}

// Up creates the interfaces and brings them up; if it fails, it removes those that it
// created. before is the record of an earlier Up, the zero Record if there is none.
// save is called with a record before anything is changed, so that Record.Down can undo
// a call that was killed, and again at the end.
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

// ours returns nil if the existing interface l may be kept or replaced.
func (t Taps) ours(l netlink.Link, before Record) error {
	a := l.Attrs()
	tap, isTap := l.(*netlink.Tuntap)
	if !isTap || tap.Mode != netlink.TUNTAP_MODE_TAP {
		return exit.WithHint(fmt.Errorf("create tap %q: the name is taken by %s", a.Name, describe(l)), "rename that interface, or %s", otherID)
	}
	// A call that was killed may have left a tap that has no alias yet.
	_, recorded := before.Interfaces[a.Name]
	if a.Alias == t.Alias || recorded && a.Alias == "" || unclaimed(l, t.Owner) {
		return nil
	}
	if a.Alias == "" && int(tap.Owner) == t.Owner {
		return exit.WithHint(fmt.Errorf("create tap %q: a running hypervisor uses an interface of that name", a.Name), "stop it, or %s", otherID)
	}
	return exit.WithHint(fmt.Errorf("create tap %q: the name is taken by %s", a.Name, describe(l)),
		"%s, or remove the existing one with: ip link delete %s", otherID, a.Name)
}

// unclaimed reports whether l is an unused tap that another program has created for
// the account owner, such as microvm.nix or systemd-networkd (Kind=tap, User=microvm).
// It is persistent and has no carrier; a tap has one while a process is attached to it.
func unclaimed(l netlink.Link, owner int) bool {
	tap, ok := l.(*netlink.Tuntap)
	return ok && tap.Mode == netlink.TUNTAP_MODE_TAP && !tap.NonPersist && int(tap.Owner) == owner &&
		tap.Attrs().Alias == "" && tap.Attrs().RawFlags&unix.IFF_LOWER_UP == 0
}

// RemoveUnclaimed removes those of the named interfaces that microvm.nix has left for
// the hypervisors' account owner: unused taps, and macvtaps whose device in nodeDir,
// /dev, belongs to the account.
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

// fits reports whether the existing tap l has the right owner and flags.
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

// create creates a persistent tap and returns its index.
func (t ownedTap) create(context.Context, uint32) (int, error) {
	fail := func(action string, err error) (int, error) {
		return 0, withHint(fmt.Errorf("create tap %q: %s: %w", t.Name, action, err), tunHint(err))
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
	// The group stays unset: with one, the hypervisor's user would have to be a member
	// of it as well.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, t.owner); err != nil {
		return fail("TUNSETOWNER", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fail("TUNSETPERSIST", err)
	}
	return Index(t.Name)
}

// Index returns the index of an interface. It uses an ioctl, netdevice(7), which is
// cheaper than a netlink request for all attributes.
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

// Exists reports whether an interface of that name exists.
func Exists(name string) bool {
	_, err := Index(name)
	return err == nil
}

// tunHint returns what to do about an error of /dev/net/tun, "" if that is unknown.
func tunHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "load the module with: modprobe tun"
	case errors.Is(err, unix.EPERM):
		return "run as root (CAP_NET_ADMIN)"
	case errors.Is(err, unix.EBUSY):
		return "check which other program creates an interface of that name"
	}
	return ""
}

// scriptDelay is how long the output of a script is read after it has exited.
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
		// Processes that it leaves running may hold its output open.
		cmd.WaitDelay = scriptDelay
		if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("run tap script %s for %q: %w: %s", t.Script, tap.Name, err, strings.TrimSpace(stderr.String()))
		}
	}
	return nil
}
