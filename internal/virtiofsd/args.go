package virtiofsd

import (
	"strconv"
	"strings"
)

// listenFD is the descriptor on which virtiofsd finds its listening socket.
const listenFD = 3

// argv is virtiofsd's command line for the share, whose directory is mounted
// at dir. A share that lies inside a state directory is confined: its guest
// must not leave anything there that counts on the host.
func (s *Share) argv(p *program, dir string, confined bool) ([]string, error) {
	// No guest makes device nodes of the host's.
	caps := "-mknod"
	if confined {
		caps += ":-setfcap"
	}
	args := []string{
		p.path,
		"--fd=" + strconv.Itoa(listenFD),
		"--shared-dir=" + dir,
		"--modcaps=" + caps,
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
			return nil, configErrorf("%s is too old to be told its tag (--tag), which crosvm needs; update it", p.path)
		}
		args = append(args, "--tag="+s.Tag)
	}
	if !p.translate && s.translates() {
		return nil, configErrorf("%s is too old to translate user and group ids (--translate-uid); update it to 1.13", p.path)
	}
	return append(args, s.ExtraArgs...), nil
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
