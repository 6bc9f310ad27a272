package statedir

import (
	"microvm/internal/mounts"
	"microvm/internal/safepath"
)

// behindLinks resolves the links of path, as far as only root can change them. Path
// components that do not exist are returned as they are, and so is what is below a
// mount point of remote, whose server may not answer.
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

// remoteMounts returns the mount points of file systems that need another program or
// machine to answer. The map is not nil.
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

// localTypes are the common types of file systems that the kernel reads on its own. It
// is safe to resolve links in them.
var localTypes = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "f2fs": true, "bcachefs": true,
	"vfat": true, "tmpfs": true, "ramfs": true, "overlay": true, "squashfs": true, "erofs": true,
}
