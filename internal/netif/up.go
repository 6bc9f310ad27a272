package netif

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// Record is what was made, or is about to be made, for one VM.
type Record struct {
	// Group is the link group of the interfaces.
	Group uint32 `json:"group"`
	Alias string `json:"alias"`
	// Interfaces by name; the index is 0 until the interface was made.
	Interfaces map[string]int `json:"interfaces"`
}

// device is one interface to be made: a tap or a macvtap.
type device interface {
	// name of the interface on the host.
	name() string
	// fits reports whether an existing interface of ours can serve as it is.
	fits(l netlink.Link) bool
	// create makes the interface and returns its index. Where it is put into the
	// link group at once, group is that one.
	create(ctx context.Context, group uint32) (index int, err error)
	// raiseHint is what to do where the interface does not come up.
	raiseHint() string
}

// transaction makes all interfaces of one kind that one VM has.
type transaction struct {
	// kind is tap or macvtap, for messages.
	kind string
	// alias is set on each interface and says whose it is.
	alias   string
	devices []device
	// ours returns nil where an existing interface may be kept or replaced, and
	// otherwise an error that says what to do about it.
	ours func(l netlink.Link, before Record) error
	// raised runs when all interfaces are up; it may be nil.
	raised func() error
}

// up makes the interfaces in one transaction. before is what an earlier call
// recorded, if anything. save is called with a record before anything is made, so
// that Down can undo a call that was killed, and again at the end. An interface
// that is ours already is kept where it fits and made anew where it does not; any
// other of its name is refused. On failure everything that this call made is removed.
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
			return fmt.Errorf("raise %s %q: %w%s", t.kind, name, err, d.raiseHint())
		}
	}
	if t.raised != nil {
		if err := t.raised(); err != nil {
			return err
		}
	}
	return save(record)
}

// compare returns the record of what is wanted, with the indices of what exists and
// fits, and what has to go first: what does not fit, and what an earlier call made
// and this one does not want.
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
