package statedir

import (
	"microvm/internal/mounts"
	"microvm/internal/safepath"
)

// behindLinks is where path leads by links that only root can change. What is not
// there yet stays as it is written, and so does what is behind one of the mounts:
// a server that is down would hold this up.
func behindLinks(path string, remote map[string]bool) string {
	policy := safepath.ForTargets
	policy.Stop = func(path string) bool { return remote[path] }
	place, err := safepath.WalkTrusted(path, policy)
	if err != nil {
		return path
	}
	place.Close()
	return place.Path
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
