package netif

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"microvm/internal/exit"
)

// Record lists the interfaces that were created, or are about to be, for one VM.
type Record struct {
	// Group is the link group of the interfaces.
	Group uint32 `json:"group"`
	Alias string `json:"alias"`
	// Interfaces has the index of each interface by its name, 0 until it is created.
	Interfaces map[string]int `json:"interfaces"`
}

// device is an interface to be created: a tap or a macvtap.
type device interface {
	// name returns the name of the interface on the host.
	name() string
	// fits reports whether the existing interface l can be kept as it is.
	fits(l netlink.Link) bool
	// create creates the interface and returns its index. It may put the interface
	// into the link group.
	create(ctx context.Context, group uint32) (index int, err error)
	// raiseHint returns what to do if the interface does not come up; it may be "".
	raiseHint() string
}

// transaction creates all interfaces of one kind for one VM.
type transaction struct {
	// kind is tap or macvtap, for messages.
	kind string
	// alias is set on each interface and identifies its VM.
	alias   string
	devices []device
	// ours returns nil if the existing interface l may be kept or replaced, and
	// otherwise the error for a name that is taken.
	ours func(l netlink.Link, before Record) error
	// raised runs when all interfaces are up; it may be nil.
	raised func() error
}

// up creates the interfaces, all or none. before is the record of an earlier call, the
// zero Record if there is none. save is called with a record before anything is
// changed, so that Down can undo a call that was killed, and again at the end. An
// existing interface of the VM is kept if it fits and created again if not; any other
// interface of the same name is an error. If up fails, it removes the interfaces that
// it has created.
func (t transaction) up(ctx context.Context, before Record, save func(Record) error) (err error) {
	all, err := links()
	if err != nil {
		return err
	}
	record, stale, err := t.compare(all, before)
	if err != nil {
		return err
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
	for _, d := range t.devices {
		name := d.name()
		if record.Interfaces[name] == 0 {
			made = append(made, name)
			if record.Interfaces[name], err = d.create(ctx, record.Group); err != nil {
				return err
			}
		}
		if err := adopt(record.Interfaces[name], t.alias, record.Group); err != nil {
			return withHint(fmt.Errorf("bring up %s %q: %w", t.kind, name, err), d.raiseHint())
		}
	}
	if t.raised != nil {
		if err := t.raised(); err != nil {
			return err
		}
	}
	return save(record)
}

// withHint returns err with a hint, or err itself if hint is "".
func withHint(err error, hint string) error {
	if hint == "" {
		return err
	}
	return exit.WithHint(err, "%s", hint)
}

// compare returns a record of the wanted interfaces, with the indices of those that
// exist and fit. stale are the interfaces to delete first: those that do not fit, and
// those of an earlier call that are no longer wanted.
func (t transaction) compare(all []netlink.Link, before Record) (record Record, stale []netlink.Link, err error) {
	record = Record{Group: before.Group, Alias: t.alias, Interfaces: map[string]int{}}
	if record.Group == 0 {
		record.Group = freeGroup(all)
	}
	have := byName(all)
	for _, d := range t.devices {
		record.Interfaces[d.name()] = 0
		l, exists := have[d.name()]
		if !exists {
			continue
		}
		if err := t.ours(l, before); err != nil {
			return Record{}, nil, err
		}
		if d.fits(l) {
			record.Interfaces[d.name()] = l.Attrs().Index
			continue
		}
		stale = append(stale, l)
	}
	for name := range before.Interfaces {
		_, wanted := record.Interfaces[name]
		if l := have[name]; l != nil && !wanted && t.ours(l, before) == nil {
			stale = append(stale, l)
		}
	}
	return record, stale, nil
}

// remove deletes those of the named interfaces that exist.
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

// Down deletes the recorded interfaces, in one transaction of the kernel if possible.
// Interfaces of another owner that have a recorded name now are kept.
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
