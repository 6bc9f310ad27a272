package netif

import (
	"bytes"
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

// Record is what was made, or is about to be made, for one VM.
type Record struct {
	// Group is the link group of the interfaces.
	Group uint32 `json:"group"`
	Alias string `json:"alias"`
	// Interfaces by name; the index is 0 until the interface was made.
	Interfaces map[string]int `json:"interfaces"`
}

// Up makes the interfaces. before is what an earlier Up recorded, if anything.
// save is called with a record before anything is made, so that Down can undo a
// call that was killed, and again at the end. An interface that is ours already
// is kept where it fits and made anew where it does not; any other of its name
// is refused. On failure everything that this call made is removed.
func (t Taps) Up(before Record, save func(Record) error) (err error) {
	all, err := links()
	if err != nil {
		return err
	}
	have := byName(all)
	record := Record{Group: before.Group, Alias: t.Alias, Interfaces: map[string]int{}}
	if record.Group == 0 {
		record.Group = freeGroup(all)
	}
	var stale []netlink.Link
	for _, tap := range t.Taps {
		record.Interfaces[tap.Name] = 0
		l, exists := have[tap.Name]
		if !exists {
			continue
		}
		if err := t.ours(l, before); err != nil {
			return err
		}
		if t.fits(l, tap) {
			record.Interfaces[tap.Name] = l.Attrs().Index
			continue
		}
		stale = append(stale, l)
	}
	// What an earlier call left and this one does not want.
	for name := range before.Interfaces {
		if _, wanted := record.Interfaces[name]; !wanted && have[name] != nil && t.ours(have[name], before) == nil {
			stale = append(stale, have[name])
		}
	}
	if err := save(record); err != nil {
		return err
	}
	if err := deleteAll(all, stale, 0); err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(made, record.Group))
		}
	}()
	for _, tap := range t.Taps {
		if record.Interfaces[tap.Name] == 0 {
			made = append(made, tap.Name)
			if record.Interfaces[tap.Name], err = t.create(tap); err != nil {
				return err
			}
		}
		if err := adopt(record.Interfaces[tap.Name], t.Alias, record.Group); err != nil {
			return fmt.Errorf("raise tap %q: %w", tap.Name, err)
		}
	}
	if err := t.runScript(); err != nil {
		return err
	}
	return save(record)
}

// ours says whether an existing interface may be reused or replaced.
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

// unclaimed says whether an existing tap was made for the account owner by somebody
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

// fits says whether an existing tap of ours can serve as it is.
func (t Taps) fits(l netlink.Link, want Tap) bool {
	tap, ok := l.(*netlink.Tuntap)
	if !ok {
		return false
	}
	flag := func(f netlink.TuntapFlag) bool { return tap.Flags&f != 0 }
	return int(tap.Owner) == t.Owner && !tap.NonPersist &&
		flag(netlink.TUNTAP_NO_PI) &&
		flag(netlink.TUNTAP_VNET_HDR) == want.VnetHdr &&
		flag(netlink.TUNTAP_MULTI_QUEUE) == want.MultiQueue
}

// create makes a persistent tap and returns its index.
func (t Taps) create(tap Tap) (int, error) {
	fail := func(action string, err error) (int, error) {
		return 0, fmt.Errorf("create tap %q: %s: %w%s", tap.Name, action, err, tunRemedy(err))
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open /dev/net/tun", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(tap.Name)
	if err != nil {
		return fail("name", err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if tap.VnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if tap.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fail("TUNSETIFF", err)
	}
	// The group stays unset: with one, the hypervisor's user would have to be a
	// member of it, too.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, t.Owner); err != nil {
		return fail("TUNSETOWNER", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fail("TUNSETPERSIST", err)
	}
	return Index(tap.Name)
}

// Index asks for the index of an interface by ioctl, which is cheaper than a
// netlink request for all its attributes.
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

// Exists says whether there is an interface of that name.
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

// remove deletes the named interfaces, those that exist.
func remove(names []string, group uint32) error {
	if len(names) == 0 {
		return nil
	}
	all, err := links()
	if err != nil {
		return err
	}
	var doomed []netlink.Link
	for _, l := range all {
		if slices.Contains(names, l.Attrs().Name) {
			doomed = append(doomed, l)
		}
	}
	return deleteAll(all, doomed, group)
}

// Down removes what the record names, all in one transaction of the kernel.
// What is gone already, or now belongs to somebody else, is left alone.
func (r Record) Down() error {
	if len(r.Interfaces) == 0 {
		return nil
	}
	all, err := links()
	if err != nil {
		return err
	}
	var doomed []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		recorded, known := r.Interfaces[a.Name]
		ours := a.Alias == r.Alias && (recorded == 0 || recorded == a.Index)
		unfinished := recorded == 0 && a.Alias == "" && (l.Type() == "tuntap" || l.Type() == "macvtap")
		if known && (ours || unfinished) {
			doomed = append(doomed, l)
		}
	}
	return deleteAll(all, doomed, r.Group)
}
