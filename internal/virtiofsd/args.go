package virtiofsd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// listenFD is the descriptor on which virtiofsd finds its listening socket.
const listenFD = 3

// modcapsOption is virtiofsd's, of which it heeds only the last.
const modcapsOption = "--modcaps"

// argv is virtiofsd's command line for the share, whose directory is mounted
// at dir. The guest of a confined share must not leave anything there that counts
// on the host.
func (s *Share) argv(p *program, dir string, confined bool) ([]string, error) {
	// No guest makes device nodes of the host's.
	caps := "-mknod"
	if confined {
		caps += ":-setfcap"
	}
	extra, modcaps := s.modcaps()
	for _, list := range modcaps {
		caps += ":" + list
	}
	args := []string{
		p.path,
		"--fd=" + strconv.Itoa(listenFD),
		"--shared-dir=" + dir,
		modcapsOption + "=" + caps,
		"--thread-pool-size=" + strconv.Itoa(s.Threads),
	}
	if s.Cache != "" {
		args = append(args, "--cache="+s.Cache)
	}
	if s.PosixACL {
		args = append(args, "--xattr", "--posix-acl")
	}
	if s.InodeFileHandles != "" {
		args = append(args, "--inode-file-handles="+s.InodeFileHandles)
	}
	// Without the option, before 1.11, the read-only mount alone says no.
	if s.ReadOnly && p.readonly {
		args = append(args, "--readonly")
	}
	if s.PassTag {
		if !p.tag {
			return nil, fmt.Errorf("%s is too old to be told its tag (--tag), which crosvm needs; update it", p.path)
		}
		args = append(args, "--tag="+s.Tag)
	}
	if !p.translate && s.translates() {
		return nil, fmt.Errorf("%s is too old to translate user and group ids (--translate-uid); update it to 1.13", p.path)
	}
	return append(args, extra...), nil
}

// modcaps splits the lists of capabilities from the other ExtraArgs.
func (s *Share) modcaps() (others, lists []string) {
	for i := 0; i < len(s.ExtraArgs); i++ {
		arg := s.ExtraArgs[i]
		list, given := strings.CutPrefix(arg, modcapsOption+"=")
		if arg == modcapsOption && i+1 < len(s.ExtraArgs) {
			i++
			list, given = s.ExtraArgs[i], true
		}
		if given {
			lists = append(lists, list)
		} else {
			others = append(others, arg)
		}
	}
	return others, lists
}

// confined says whether the guest is kept from making what counts on the host.
// What a guest cannot write needs no guard, unless a state directory is around
// it. Outside of those, an operator may do without, for a share that is a guest's
// system: the capability to set capabilities stands for both.
func (s *Share) confined(inside bool) bool {
	if inside || s.ReadOnly {
		return inside
	}
	_, lists := s.modcaps()
	return !slices.Contains(strings.Split(strings.ToLower(strings.Join(lists, ":")), ":"), "+setfcap")
}

// translates says whether ids are to be translated.
func (s *Share) translates() bool {
	for _, arg := range s.ExtraArgs {
		if strings.HasPrefix(arg, "--translate-uid") || strings.HasPrefix(arg, "--translate-gid") {
			return true
		}
	}
	return false
}
