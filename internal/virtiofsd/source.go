package virtiofsd

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/coreos/go-systemd/v22/unit"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/mounts"
	"microvm/internal/safepath"
)

// walker has the rules by which a source is opened: links are followed where
// operators make them, and never where a hypervisor or a guest could.
type walker struct {
	// root is the directory of all state directories; inside is set when the
	// walk enters it, by whatever path.
	root   safepath.ID
	inside bool
	// ownerUID is the hypervisor's user, whose links are not followed. It and
	// ownerGID get the last component where that is missing; created says that it
	// was.
	ownerUID, ownerGID int
	created            bool
	// covers finds the directories that guests write. It is asked only where the
	// path goes through a link or up; trail is where the walk came through.
	covers func() ([]cover, error)
	trail  map[safepath.ID]bool
}

// openSource opens the source directory of a share, creates it where it is
// missing, and returns a handle that the caller closes.
func openSource(cfg *Config, source string) (fd int, w *walker, err error) {
	source = cfg.absSource(source)
	if w, err = cfg.walker(); err != nil {
		return -1, nil, err
	}
	rules := w.rules()
	rules.Missing = w.make
	place, err := walk(source, rules)
	if err != nil {
		return -1, nil, fmt.Errorf("open source %q: %w", source, err)
	}
	return place.FD, w, nil
}

// absSource is a source's path from the root directory on.
func (c *Config) absSource(source string) string {
	if filepath.IsAbs(source) {
		return source
	}
	return filepath.Join(c.StateDir, source)
}

// walker notes which directory holds the state directories.
func (c *Config) walker() (*walker, error) {
	root, err := safepath.IDAt(c.StateRoot)
	if err != nil {
		return nil, fmt.Errorf("open state directory %q: %w", c.StateRoot, err)
	}
	return &walker{root: root, ownerUID: c.OwnerUID, ownerGID: c.OwnerGID, covers: sync.OnceValues(c.covers), trail: map[safepath.ID]bool{}}, nil
}

// walk walks to a source. Too many links are an operator's to mend.
func walk(source string, rules safepath.Rules) (*safepath.Place, error) {
	place, err := safepath.Walk(source, rules)
	if errors.Is(err, unix.ELOOP) {
		err = configErrorf("%w", err)
	}
	return place, err
}

func (w *walker) rules() safepath.Rules { return safepath.Rules{Entry: w.entry, Up: w.up} }

// note notes that the walk is in a directory.
func (w *walker) note(id safepath.ID) {
	w.trail[id] = true
	w.inside = w.inside || id == w.root
}

// entry says whether the walk may go on by what it has come to.
func (w *walker) entry(s *safepath.Step) error {
	w.note(s.DirID())
	switch {
	case s.IsDir():
		w.note(s.ID())
		return nil
	case !s.IsLink():
		return fmt.Errorf("%q is no directory; only directories are shared", s.Name)
	case w.inside:
		return configErrorf("%q is a symbolic link; inside the state directory none is followed, because the hypervisor could have made it: remove it", s.Name)
	case int(s.Stat.Uid) == w.ownerUID && s.Stat.Uid != 0:
		return configErrorf("%q is a symbolic link that belongs to the hypervisor's user; it is not followed: remove it", s.Name)
	}
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("%q is a symbolic link: %w", s.Name, err)
	}
	if share != nil {
		return configErrorf("%q is a symbolic link inside %v, and is not followed, because that guest could have made it: remove it, or name the directory that it leads to", s.Name, share)
	}
	return nil
}

// up refuses to go up from where a hypervisor or a guest can move directories
// about.
func (w *walker) up(s *safepath.Step) error {
	w.note(s.DirID())
	if w.inside {
		return configErrorf("it goes up with \"..\" inside the state directory; write the path without")
	}
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("\"..\": %w", err)
	}
	if share == nil {
		return nil
	}
	return configErrorf("it goes up with \"..\" inside %v, whose guest could have moved what is there; write the path without", share)
}

// make creates a missing component: the last one for the hypervisor's user,
// those before it for root.
func (w *walker) make(s *safepath.Step) (int, error) {
	path := filepath.Join(append([]string{s.Path()}, s.Rest...)...)
	if err := refuseUnmounted(path); err != nil {
		return -1, fmt.Errorf("%q: %w", s.Name, err)
	}
	as := safepath.As{Mode: 0o755}
	if len(s.Rest) == 0 {
		as = safepath.As{Mode: sourceMode, UID: w.ownerUID, GID: w.ownerGID}
	}
	if err := safepath.Mkdir(s.Dir, s.Name, as); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("create %q: %w", s.Name, err)
	}
	fd, err := safepath.OpenDirBeneath(s.Dir, s.Name)
	if err != nil {
		return -1, fmt.Errorf("%q: %w", s.Name, err)
	}
	w.created = len(s.Rest) == 0
	return fd, nil
}

// refuseUnmounted refuses to make what is missing only because the disk that holds
// it is not mounted yet: the guest would get an empty directory for its data.
func refuseUnmounted(path string) error {
	point, err := mounts.Host.Missing(path)
	if err != nil {
		return err
	}
	if point != nil {
		return fmt.Errorf("%q not found, and %s is not mounted\nhint: mount it with: systemctl start %s.mount; an empty directory is not made in its place", path, point.Dir, unit.UnitNamePathEscape(point.Dir))
	}
	return nil
}

// refuseStateDir refuses to give a guest its own state directory to write: as
// root there it could replace the links that say what root trusts.
func (c *Config) refuseStateDir(share *Share, fd int) error {
	if share.ReadOnly {
		return nil
	}
	source, err := safepath.IDOf(fd)
	if err != nil {
		return err
	}
	for _, dir := range []string{c.StateDir, c.StateRoot} {
		id, err := safepath.IDAt(dir)
		if err != nil {
			return err
		}
		if source == id {
			return configErrorf("source %q is the state directory itself, and its guest could replace what the host trusts there; share a directory in it, or make the share readOnly", share.Source)
		}
	}
	return nil
}

// A guest is root in its share: a link that it makes there belongs to root and
// looks like an operator's. So no link is followed at or below a directory that
// a guest writes, this VM's or another one's.

// Writable is a directory of the host that a guest writes, through a share.
type Writable struct {
	// VM and Tag name the share.
	VM, Tag string
	// Source is its absolute path, which may go through links.
	Source string
}

func (w *Writable) String() string {
	return fmt.Sprintf("share %q of VM %q (source %q)", w.Tag, w.VM, w.Source)
}

// cover is a directory that a guest writes, and the share by which it does.
type cover struct {
	Writable
	id safepath.ID
}

// writables are the directories that guests write.
func (c *Config) writables() ([]Writable, error) {
	var all []Writable
	for _, s := range c.Shares {
		if !s.ReadOnly {
			all = append(all, Writable{VM: filepath.Base(c.StateDir), Tag: s.Tag, Source: c.absSource(s.Source)})
		}
	}
	if c.Others == nil {
		return all, nil
	}
	others, err := c.Others()
	return append(all, others...), err
}

// covers finds the directories that guests write. One that is missing covers
// nothing. Those whose paths go through links come last, and by the rule that
// they serve: a guest must not be able to lead away what is found of another.
func (c *Config) covers() ([]cover, error) {
	all, err := c.writables()
	if err != nil {
		return nil, err
	}
	var found []cover
	var linked []Writable
	for _, share := range all {
		id, err := plainID(share.Source)
		switch {
		case err == nil:
			found = append(found, cover{share, id})
		case errors.Is(err, unix.ELOOP):
			linked = append(linked, share)
		case !missing(err):
			return nil, fmt.Errorf("%v: %w", &share, err)
		}
	}
	// What lies in another has the longer path.
	slices.SortStableFunc(linked, func(a, b Writable) int { return cmp.Compare(len(a.Source), len(b.Source)) })
	for _, share := range linked {
		id, err := c.linkedID(share.Source, found)
		if err == nil {
			found = append(found, cover{share, id})
		}
		if err != nil && !missing(err) && !exit.IsConfig(err) {
			return nil, fmt.Errorf("%v: %w", &share, err)
		}
	}
	return found, nil
}

// missing says that there is no directory of that name.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// plainID is the identity of a directory whose path has no links; ELOOP where it
// has.
func plainID(path string) (safepath.ID, error) {
	fd, err := safepath.OpenPlain(path)
	if err != nil {
		return safepath.ID{}, err
	}
	defer safepath.Close(fd)
	return safepath.IDOf(fd)
}

// linkedID is the identity of a directory whose path goes through links that none
// of the guests that were found writes.
func (c *Config) linkedID(path string, found []cover) (safepath.ID, error) {
	w, err := c.walker()
	if err != nil {
		return safepath.ID{}, err
	}
	w.covers = func() ([]cover, error) { return found, nil }
	place, err := walk(path, w.rules())
	if err != nil {
		return safepath.ID{}, err
	}
	defer place.Close()
	return safepath.IDOf(place.FD)
}

// covering returns the share by which a guest writes where the walk is, nil
// where there is none.
func (w *walker) covering() (*Writable, error) {
	all, err := w.covers()
	if err != nil {
		return nil, fmt.Errorf("find out whether a guest could have made that, because it is in a share: %w", err)
	}
	for i := range all {
		if w.trail[all[i].id] {
			return &all[i].Writable, nil
		}
	}
	return nil, nil
}
