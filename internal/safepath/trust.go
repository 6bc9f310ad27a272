package safepath

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// otherWrite are the mode bits that let users other than the owner write. With an
// access control list, the group bits are the most that the list allows, acl(5).
const otherWrite = unix.S_IWGRP | unix.S_IWOTH

// Sticky determines which directories that other users may write in are accepted
// because of their sticky bit: in them only the owner of an entry and the owner of
// the directory can remove or rename the entry, inode(7).
//
// That protects less than it seems. Other users cannot remove an entry of root, but
// they can add one: a link that a guest's root created in a share is owned by root,
// and a hypervisor can move it into any sticky directory of the same file system,
// under a name that is free.
type Sticky int

const (
	// StickyNowhere accepts none.
	StickyNowhere Sticky = iota
	// StickyAtFirst accepts those that the path itself names, before the first link:
	// the author of the path chose them. Behind a link it accepts only the package
	// stores, whose builders root trusts anyway.
	StickyAtFirst
)

// stores are the directories in which the builders of a package manager write:
// /nix/store is root:nixbld 1775, /gnu/store root:guixbuild 1775.
var stores = []string{"/nix/store", "/gnu/store"}

func (k Sticky) accepts(s *Step) bool {
	return s.DirStat.Mode&unix.S_ISVTX != 0 && k == StickyAtFirst && (s.Links == 0 || slices.Contains(stores, s.DirPath))
}

// Policy determines which users a walk trusts. The zero value is the strictest for
// everything but the file that the path leads to: root owns each directory and link
// of the path, and no other user can write in the directories.
type Policy struct {
	// Caller trusts the calling user as much as root.
	Caller bool
	// Sticky accepts some directories in which other users can write.
	Sticky Sticky
	// LinksOnly checks only links and the directories that they are in. It is for
	// paths that root chose, in which only a link could be another user's.
	LinksOnly bool
	// Target applies the rule to the file that the path leads to as well: root owns it,
	// and no other user can write to it.
	Target bool
	// Missing accepts a path that leads to no file, if only trusted users can create
	// it later.
	Missing bool
	// Stop is Rules.Stop.
	Stop func(path string) bool
}

// The policies of this project, with the reasons for their differences.
var (
	// ForPackage is for a link to a package that root trusts. The link is in the VM's
	// directory, which is sticky; package statedir explains why nobody can plant it.
	ForPackage = Policy{Sticky: StickyAtFirst, Target: true}
	// WithinPackage is for the files of such a package, which has no sticky
	// directories and no links that lead out of it.
	WithinPackage = Policy{Target: true}
	// ForProgram is for a program that root runs. It may be below /tmp, for tests and
	// for operators who try one.
	ForProgram = Policy{Sticky: StickyAtFirst, Target: true}
	// ForJail is for a file that the service manager, as root, binds into a jail at any
	// later start. There is time to plant a file, so no sticky directory is accepted.
	// The hypervisor may write to the file, and it need not exist yet.
	ForJail = Policy{Missing: true}
	// ForStateDir is for the state directory. Root chose its path, and a user who runs
	// everything as themselves is trusted as root is.
	ForStateDir = Policy{Caller: true, LinksOnly: true, Missing: true}
	// ForRecord is for a directory of root's trusted records. It may be below /tmp, for
	// tests and for users who run everything as themselves.
	ForRecord = Policy{Caller: true, Sticky: StickyAtFirst, Target: true}
	// ForNew is for a file that root is about to create, under a name that nobody else
	// knows.
	ForNew = Policy{Sticky: StickyAtFirst, Missing: true}
	// ForTargets is for resolving the operator's paths, to mount or show what they lead
	// to. Programs that read the files have rules of their own.
	ForTargets = Policy{LinksOnly: true, Missing: true}
)

// UntrustedError reports a file through which an untrusted user could make the path
// lead elsewhere, or change what it leads to.
type UntrustedError struct {
	// Path is the file's path, without links.
	Path string
	// Dir reports whether the file is a directory of the path.
	Dir bool
	// Foreign reports whether the file is owned by UID, who is not trusted. Otherwise
	// users other than its owner can write to it.
	Foreign bool
	UID     uint32
	// Mode are the permissions and the sticky bit.
	Mode uint32
}

// Error implements error.
func (e *UntrustedError) Error() string { return e.Path + ": " + e.Reason() }

// Reason returns the error without the path.
func (e *UntrustedError) Reason() string {
	switch {
	case e.Foreign && e.Dir:
		return fmt.Sprintf("directory is owned by uid %d, not by root", e.UID)
	case e.Foreign:
		return fmt.Sprintf("owned by uid %d, not by root", e.UID)
	case e.Dir:
		return fmt.Sprintf("directory is writable by non-root users (mode %04o)", e.Mode)
	}
	return fmt.Sprintf("writable by non-root users (mode %04o)", e.Mode)
}

// WalkTrusted walks the absolute path. It fails with an *UntrustedError if a user whom
// the policy does not trust could have determined where the path leads, or could
// change that meanwhile. It checks from the top down, so only trusted users can change
// a directory that was checked. The caller closes the place.
func WalkTrusted(path string, p Policy) (*Place, error) { return p.end(Walk(path, p.rules())) }

// WalkTrustedBeneath is WalkTrusted for a path beneath dir, which is trusted. The walk
// does not leave dir.
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

// entry is Rules.Entry of the policy.
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
	// The mode of a link has no meaning, symlink(7). That of a directory is checked when
	// a name is looked up in it.
	if !p.trusts(s.Stat.Uid) {
		return &UntrustedError{Path: s.Path(), Foreign: true, UID: s.Stat.Uid, Mode: s.Stat.Mode & 0o7777}
	}
	return nil
}

// end checks the place at which a walk has ended. entry does not see it if the path
// ends with "..".
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

// dir checks the directory that a walk is in.
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
