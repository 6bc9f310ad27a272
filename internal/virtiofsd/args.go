package virtiofsd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/exit"
)

// listenFD is the descriptor number of the listening socket in virtiofsd.
const listenFD = 3

// modcapsOption changes virtiofsd's set of capabilities. virtiofsd uses only the
// last one of a command line.
const modcapsOption = "--modcaps"

// argv returns virtiofsd's command line for the share, whose directory is mounted
// at dir. The guest of a confined share must not create files that grant rights on
// the host.
func (s *Share) argv(p *program, dir string, confined bool) ([]string, error) {
	// A guest must not create device nodes on the host.
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
	// Before 1.11 there is no such option; the read-only mount is enough.
	if s.ReadOnly && p.readonly {
		args = append(args, "--readonly")
	}
	if s.PassTag {
		if !p.tag {
			return nil, exit.WithHint(fmt.Errorf("%s has no option --tag, which crosvm needs", p.path), "install a newer virtiofsd")
		}
		args = append(args, "--tag="+s.Tag)
	}
	if !p.translate && s.translates() {
		return nil, exit.WithHint(fmt.Errorf("%s has no option --translate-uid", p.path), "install virtiofsd 1.13 or newer")
	}
	return append(args, extra...), nil
}

// modcaps separates the values of --modcaps from the other ExtraArgs.
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

// confined reports whether the guest is prevented from creating files that grant
// rights on the host. inside reports whether the source lies in a state directory,
// where every share is confined. Elsewhere a read-only share needs no protection,
// and an operator can turn it off for a share that holds a guest's root file system,
// by adding CAP_SETFCAP in --modcaps.
func (s *Share) confined(inside bool) bool {
	if inside || s.ReadOnly {
		return inside
	}
	_, lists := s.modcaps()
	return !slices.Contains(strings.Split(strings.ToLower(strings.Join(lists, ":")), ":"), "+setfcap")
}

// translates reports whether ExtraArgs ask for a translation of user or group ids.
func (s *Share) translates() bool {
	for _, arg := range s.ExtraArgs {
		if strings.HasPrefix(arg, "--translate-uid") || strings.HasPrefix(arg, "--translate-gid") {
			return true
		}
	}
	return false
}
