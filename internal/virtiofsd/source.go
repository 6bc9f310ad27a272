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

// Hints for paths that a hypervisor or a guest may have prepared.
const (
	removeLinkHint = "remove it; links in the state directory are not followed, as the hypervisor can create them"
	withoutUpHint  = "write the path without \"..\""
)

// walker has the rules for opening a source: links that an operator made are
// followed, links that a hypervisor or a guest could have made are not.
type walker struct {
	// root is the directory of all state directories; inside is set when the walk
	// enters it, on whatever path.
	root   safepath.ID
	inside bool
	// ownerUID is the hypervisor's user, whose links are not followed. A missing last
	// component is created for ownerUID and ownerGID; created reports whether it was.
	ownerUID, ownerGID int
	created            bool
	// covers returns the directories that guests write. It is called only if the path
	// goes through a link or "..". trail holds the directories that the walk came
	// through.
	covers func() ([]cover, error)
	trail  map[safepath.ID]bool
}

// openSource opens the source directory of a share and creates it if it is missing.
// The caller closes fd.
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

// absSource returns the absolute path of a source.
func (c *Config) absSource(source string) string {
	if filepath.IsAbs(source) {
		return source
	}
	return filepath.Join(c.StateDir, source)
}

// walker returns a walker for this VM's sources.
func (c *Config) walker() (*walker, error) {
	root, err := safepath.IDAt(c.StateRoot)
	if err != nil {
		return nil, fmt.Errorf("open state directory %q: %w", c.StateRoot, err)
	}
	return &walker{root: root, ownerUID: c.OwnerUID, ownerGID: c.OwnerGID, covers: sync.OnceValues(c.covers), trail: map[safepath.ID]bool{}}, nil
}

// walk walks to a source. Too many links are a configuration error.
func walk(source string, rules safepath.Rules) (*safepath.Place, error) {
	place, err := safepath.Walk(source, rules)
	if errors.Is(err, unix.ELOOP) {
		err = configErrorf("%w", err)
	}
	return place, err
}

func (w *walker) rules() safepath.Rules { return safepath.Rules{Entry: w.entry, Up: w.up} }

// note records that the walk has entered a directory.
func (w *walker) note(id safepath.ID) {
	w.trail[id] = true
	w.inside = w.inside || id == w.root
}

// entry returns an error unless the walk may go on through the entry of s: a
// directory, or a link that neither a hypervisor nor a guest can have made.
func (w *walker) entry(s *safepath.Step) error {
	w.note(s.DirID())
	switch {
	case s.IsDir():
		w.note(s.ID())
		return nil
	case !s.IsLink():
		return fmt.Errorf("%q is not a directory", s.Name)
	case w.inside:
		return exit.WithHint(configErrorf("%q is a symbolic link in the state directory", s.Name), removeLinkHint)
	case int(s.Stat.Uid) == w.ownerUID && s.Stat.Uid != 0:
		return exit.WithHint(configErrorf("%q is a symbolic link owned by the hypervisor's user", s.Name), "remove it; such links are not followed")
	}
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("%q is a symbolic link: %w", s.Name, err)
	}
	if share != nil {
		return exit.WithHint(configErrorf("%q is a symbolic link inside %v, whose guest may have created it", s.Name, share),
			"remove it, or set source to the directory that it points to")
	}
	return nil
}

// up returns an error if a hypervisor or a guest can move the directory that the walk
// would leave by "..".
func (w *walker) up(s *safepath.Step) error {
	w.note(s.DirID())
	if w.inside {
		return exit.WithHint(configErrorf("path goes up with \"..\" inside the state directory"), withoutUpHint)
	}
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("\"..\": %w", err)
	}
	if share == nil {
		return nil
	}
	return exit.WithHint(configErrorf("path goes up with \"..\" inside %v, whose guest can move directories", share), withoutUpHint)
}

// make creates a missing component and returns a handle of it. The last component
// belongs to the hypervisor's user, those before it to root.
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

// refuseUnmounted returns an error if path is missing only because its file system is
// not mounted yet. Otherwise the guest would get an empty directory instead of its
// data.
func refuseUnmounted(path string) error {
	point, err := mounts.Host.Missing(path)
	if err != nil {
		return err
	}
	if point != nil {
		return exit.WithHint(fmt.Errorf("%q not found, and %s is not mounted", path, point.Dir),
			"mount it with: systemctl start %s.mount", unit.UnitNamePathEscape(point.Dir))
	}
	return nil
}

// refuseStateDir returns an error if the guest could write to its own state directory.
// It would be root there and could replace the links that the host trusts.
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
			return exit.WithHint(configErrorf("source %q is the state directory itself, which a guest must not write to", share.Source),
				"share a directory in it, or set readOnly")
		}
	}
	return nil
}

// A guest is root in its share. A link that it makes there belongs to root, like an
// operator's. So no link is followed at or below a directory that a guest writes,
// whether of this VM or of another.

// Writable is a directory of the host that a guest writes through a share.
type Writable struct {
	// VM and Tag identify the share.
	VM, Tag string
	// Source is the absolute path of the directory; it may go through links.
	Source string
}

func (w *Writable) String() string {
	return fmt.Sprintf("share %q of VM %q (source %q)", w.Tag, w.VM, w.Source)
}

// cover is a share that its guest writes, with the identity of its directory.
type cover struct {
	Writable
	id safepath.ID
}

// writables returns the directories that guests write, of this VM and of others.
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

// covers returns the identities of the directories that guests write. A missing one
// is left out. Those whose paths go through links come last and are walked by the
// same rules, so that one guest cannot redirect the path of another guest's share.
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
	// A share inside another one has the longer path.
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

// missing reports whether err means that a directory does not exist.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// plainID returns the identity of the directory at path; the error is ELOOP if the
// path goes through a link.
func plainID(path string) (safepath.ID, error) {
	fd, err := safepath.OpenPlain(path)
	if err != nil {
		return safepath.ID{}, err
	}
	defer safepath.Close(fd)
	return safepath.IDOf(fd)
}

// linkedID returns the identity of the directory at path, which may go through links
// except where the guest of one of found can write.
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

// covering returns a share whose guest writes a directory that the walk came through,
// nil if there is none.
func (w *walker) covering() (*Writable, error) {
	all, err := w.covers()
	if err != nil {
		return nil, fmt.Errorf("list directories that guests write: %w", err)
	}
	for i := range all {
		if w.trail[all[i].id] {
			return &all[i].Writable, nil
		}
	}
	return nil, nil
}
