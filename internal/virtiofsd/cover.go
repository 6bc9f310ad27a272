package virtiofsd

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

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
	id inode
}

// absSource is a source's path from the root directory on.
func (c *Config) absSource(source string) string {
	if filepath.IsAbs(source) {
		return source
	}
	return filepath.Join(c.StateDir, source)
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
		id, err := find(unix.AT_FDCWD, share.Source, unix.RESOLVE_NO_SYMLINKS)
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
		w := c.walker()
		w.lookup, w.covers = true, func() ([]cover, error) { return found, nil }
		err := w.findRoot(c.StateRoot)
		if err == nil {
			err = w.walk(share.Source)
		}
		if err == nil {
			var id inode
			id, err = inodeOf(w.at)
			found = append(found, cover{share, id})
		}
		w.close()
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

// find returns the identity of the directory at path.
func find(dir int, path string, resolve uint64) (inode, error) {
	fd, err := openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return inode{}, err
	}
	defer closeFD(fd)
	return inodeOf(fd)
}

// covering returns the share by which a guest writes where the walk is, nil
// where there is none.
func (w *walker) covering() (*Writable, error) {
	all, err := w.covers()
	if err != nil {
		return nil, fmt.Errorf("find out whether a guest could have made that, because it is in a share: %w", err)
	}
	for i := range all {
		if slices.Contains(w.trail, all[i].id) {
			return &all[i].Writable, nil
		}
	}
	return nil, nil
}
