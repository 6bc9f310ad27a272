package statedir

import (
	"os"
	"path/filepath"
	"strings"

	"microvm/internal/mounts"
)

// behindLinks is where path leads by links that only root can change. What is not
// there yet stays as it is written, and so does what is behind one of the mounts:
// a server that is down would hold this up.
func behindLinks(path string, remote map[string]bool) string {
	at, todo := "/", strings.Split(strings.Trim(path, "/"), "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		if remote[next] {
			return filepath.Join(append([]string{next}, todo...)...)
		}
		target, err := os.Readlink(next)
		if err != nil {
			at = next
			continue
		}
		if links++; links > maxJailLinks || onlyRootChanges(at) != nil {
			return path
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		if target = strings.Trim(target, "/"); target != "" {
			todo = append(strings.Split(target, "/"), todo...)
		}
	}
	return at
}

// remoteMounts are the mount points of file systems that somebody else has to
// answer for. It is not nil.
func remoteMounts() map[string]bool {
	out := map[string]bool{}
	all, err := mounts.Host.Mounts()
	if err != nil {
		return out
	}
	for _, m := range all {
		if !localTypes[m.Type] {
			out[m.Dir] = true
		}
	}
	return out
}

// localTypes are the file systems that the kernel reads by itself, and which so
// many hosts have that it is worth to look for links in them.
var localTypes = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "f2fs": true, "bcachefs": true,
	"vfat": true, "tmpfs": true, "ramfs": true, "overlay": true, "squashfs": true, "erofs": true,
}
