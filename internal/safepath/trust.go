package safepath

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// otherWrite are the modes by which others than the owner write. Where there is
// an access list, the bits of the group stand for the most that it allows,
// acl(5).
const otherWrite = unix.S_IWGRP | unix.S_IWOTH

// Sticky says which directories that others may write in are accepted for their
// sticky bit, with which nobody but its owner, and the directory's, removes or
// renames an entry, inode(7).
//
// That is less than it seems. Others cannot take an entry of root's away, but they
// can bring one: a link that a guest's root made in a share belongs to root, and a
// hypervisor can move it into any such directory of the same file system, under a
// name that is free.
type Sticky int

const (
	// StickyNowhere accepts none.
	StickyNowhere Sticky = iota
	// StickyAtFirst accepts those that the path itself names, before the first
	// link: whoever wrote the path knew what he named. Behind a link it accepts the
	// package stores alone, whose builders root trusts with all that it runs.
	StickyAtFirst
)

// stores are the directories in which a package manager has its builders write:
// /nix/store is root:nixbld 1775, /gnu/store root:guixbuild 1775.
var stores = []string{"/nix/store", "/gnu/store"}

func (k Sticky) accepts(s *Step) bool {
	return s.DirStat.Mode&unix.S_ISVTX != 0 && k == StickyAtFirst && (s.Links == 0 || slices.Contains(stores, s.DirPath))
}

// Policy says whom a walk trusts. The zero value is the strictest, but for what
// the path leads to: each directory on the way is root's and nobody else writes in
// it, and each link on the way is root's.
type Policy struct {
	// Caller trusts the user who calls as much as root.
	Caller bool
	// Sticky accepts directories that others write in.
	Sticky Sticky
	// LinksOnly looks at links and at the directories that they are in. It is for
	// paths that are root's own word, where only a link could be somebody else's.
	LinksOnly bool
	// Target holds what the path leads to to the same rule: it is root's, and nobody
	// else writes it.
	Target bool
	// Missing makes it no error that there is nothing: only who is trusted can make
	// it later.
	Missing bool
	// Stop is that of Rules.
	Stop func(path string) bool
}

// The policies of this project. What differs has its reason here.
var (
	// ForPackage is for a link to a package which root goes by. The VM's directory,
	// in which the link is, is sticky; see statedir for why nobody can bring it.
	ForPackage = Policy{Sticky: StickyAtFirst, Target: true}
	// WithinPackage is for the files of such a package. There are no sticky
	// directories in one, and none of its links leads out of it.
	WithinPackage = Policy{Target: true}
	// ForProgram is for a program that root runs. Tests, and operators who try one,
	// have them below /tmp.
	ForProgram = Policy{Sticky: StickyAtFirst, Target: true}
	// ForJail is for a file that the service manager, which is root, binds into a
	// jail at any later start: there is time to bring something, so no directory
	// is accepted for being sticky. The file is the hypervisor's to write, or not
	// there yet.
	ForJail = Policy{Missing: true}
	// ForStateDir is for the state directory: it is root's word where that is, and
	// who runs it all as himself is as good as root.
	ForStateDir = Policy{Caller: true, LinksOnly: true, Missing: true}
	// ForRecord is for a directory in which root keeps what it goes by. A test, or who
	// runs it all as himself, has it below /tmp.
	ForRecord = Policy{Caller: true, Sticky: StickyAtFirst, Target: true}
	// ForNew is for what root is about to make, under a name that nobody knows.
	ForNew = Policy{Sticky: StickyAtFirst, Missing: true}
	// ForTargets is for finding out where the operator's paths lead, to mount or to
	// show what is there. Who reads it then has rules of his own.
	ForTargets = Policy{LinksOnly: true, Missing: true}
)

// UntrustedError says who else could make the path lead elsewhere, or change what
// it leads to.
type UntrustedError struct {
	// Path has no links.
	Path string
	// Dir says that it is a directory on the way.
	Dir bool
	// Foreign says that it belongs to UID; otherwise others than its owner can
	// write to it.
	Foreign bool
	UID     uint32
	// Mode has the permissions and the sticky bit.
	Mode uint32
}

// Error implements error.
func (e *UntrustedError) Error() string { return e.Path + ": " + e.Reason() }

// Reason is the error without the path.
func (e *UntrustedError) Reason() string {
	switch {
	case e.Foreign && e.Dir:
		return fmt.Sprintf("the directory belongs to user %d, not to root", e.UID)
	case e.Foreign:
		return fmt.Sprintf("it belongs to user %d, not to root", e.UID)
	case e.Dir:
		return fmt.Sprintf("others than root can write to the directory (mode %04o)", e.Mode)
	}
	return fmt.Sprintf("others than root can write to it (mode %04o)", e.Mode)
}

// WalkTrusted walks the absolute path and fails with an UntrustedError where
// somebody whom the policy does not trust could have made it lead to where it
// does, or could change that meanwhile: from the top down, each directory that
// passed can only be changed by who is trusted.
func WalkTrusted(path string, p Policy) (*Place, error) { return p.end(Walk(path, p.rules())) }

// WalkTrustedBeneath is WalkTrusted for a path beneath dir, which is trusted and
// not left.
func WalkTrustedBeneath(dir int, rel string, p Policy) (*Place, error) {
	return p.end(WalkBeneath(dir, rel, p.rules()))
}

func (p Policy) rules() Rules {
	rules := Rules{Entry: p.entry, Stop: p.Stop}
	if p.Missing {
		rules.Missing = func(s *Step) (int, error) {
			if p.LinksOnly {
				return -1, nil
			}
			return -1, p.dir(s)
		}
	}
	return rules
}

// trusts reports whether a user is trusted.
func (p Policy) trusts(uid uint32) bool {
	return uid == 0 || p.Caller && int(uid) == os.Geteuid()
}

// entry is asked about what a walk comes to.
func (p Policy) entry(s *Step) error {
	if p.LinksOnly && !s.IsLink() {
		return nil
	}
	if err := p.dir(s); err != nil {
		return err
	}
	if len(s.Rest) == 0 && !s.IsLink() {
		return nil // the target
	}
	// A link's mode has no meaning, symlink(7), and that of a directory counts once
	// something is looked up in it.
	if !p.trusts(s.Stat.Uid) {
		return &UntrustedError{Path: s.Path(), Foreign: true, UID: s.Stat.Uid, Mode: s.Stat.Mode & 0o7777}
	}
	return nil
}

// end is about where a walk has ended. A path that ends with ".." leads to a
// directory that it came through.
func (p Policy) end(place *Place, err error) (*Place, error) {
	if err != nil || !p.Target || place.FD < 0 {
		return place, err
	}
	st := &place.Stat
	if foreign := !p.trusts(st.Uid); foreign || st.Mode&otherWrite != 0 {
		place.Close()
		return nil, &UntrustedError{Path: place.Path, Foreign: foreign, UID: st.Uid, Mode: st.Mode & 0o7777}
	}
	return place, nil
}

// dir is about the directory that a walk is in.
func (p Policy) dir(s *Step) error {
	st := s.DirStat
	if !p.trusts(st.Uid) {
		return &UntrustedError{Path: s.DirPath, Dir: true, Foreign: true, UID: st.Uid, Mode: st.Mode & 0o7777}
	}
	if st.Mode&otherWrite != 0 && !p.Sticky.accepts(s) {
		return &UntrustedError{Path: s.DirPath, Dir: true, Mode: st.Mode & 0o7777}
	}
	return nil
}
