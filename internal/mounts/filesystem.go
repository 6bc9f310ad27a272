package mounts

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileSystem says which file system a directory is on, so that it means the same
// after a reboot: st_dev of stat(2) does not.
type FileSystem struct {
	// Type is f_type of statfs(2), a number.
	Type uint32 `json:"type"`
	// FSID is f_fsid of statfs(2); empty where it is 0 or changes with each boot.
	// That of ext4 and btrfs is made from the UUID, that of ZFS is the data set's,
	// and btrfs has one for each subvolume.
	FSID string `json:"fsid,omitempty"`
	// UUID is that of the block device's content, where udev knows it.
	UUID string `json:"uuid,omitempty"`
}

// byDevice are the file systems whose f_fsid is the number of their device, or made
// up when they are mounted: it may be another after a reboot.
var byDevice = map[uint32]bool{
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.MSDOS_SUPER_MAGIC: true,
	unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true, unix.NFS_SUPER_MAGIC: true, unix.FUSE_SUPER_MAGIC: true,
	unix.ISOFS_SUPER_MAGIC: true, unix.SQUASHFS_MAGIC: true, unix.EXFAT_SUPER_MAGIC: true, unix.CEPH_SUPER_MAGIC: true,
	unix.SMB_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true, unix.CIFS_SUPER_MAGIC: true, unix.V9FS_MAGIC: true,
}

// Of is the file system of a directory.
func Of(dir string) (FileSystem, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return FileSystem{}, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	return OfFile(f)
}

// OfFile is the file system of an open file, which may be open by O_PATH.
func OfFile(f *os.File) (FileSystem, error) {
	var vol unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(int(f.Fd()), &vol); err != nil {
		return FileSystem{}, fmt.Errorf("look at the file system of %s: %w", f.Name(), err)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return FileSystem{}, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	out := FileSystem{Type: uint32(vol.Type), UUID: uuidOf(st.Dev)}
	if id := vol.Fsid.Val; id != [2]int32{} && !byDevice[out.Type] {
		out.FSID = fmt.Sprintf("%08x%08x", uint32(id[0]), uint32(id[1]))
	}
	return out, nil
}

// uuids is where udev has a link for each block device with a UUID.
const uuids = "/dev/disk/by-uuid"

// uuidOf is the UUID of what is on a block device; empty where nobody knows.
func uuidOf(dev uint64) string {
	entries, err := os.ReadDir(uuids)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(uuids, e.Name()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == dev {
			return e.Name()
		}
	}
	return ""
}

// Same says whether two may be one file system: what is not known of both makes
// no difference.
func (a FileSystem) Same(b FileSystem) bool {
	switch {
	case a.Type != b.Type:
		return false
	case a.FSID != "" && b.FSID != "":
		return a.FSID == b.FSID
	case a.UUID != "" && b.UUID != "":
		return a.UUID == b.UUID
	}
	return true
}

// typeNames are those of the common ones.
var typeNames = map[uint32]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", 0x2fc12fc1: "zfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.MSDOS_SUPER_MAGIC: "vfat",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.FUSE_SUPER_MAGIC: "fuse",
}

// String names it for people.
func (a FileSystem) String() string {
	name, ok := typeNames[a.Type]
	if !ok {
		name = fmt.Sprintf("type %#x", a.Type)
	}
	switch {
	case a.UUID != "":
		return name + " " + a.UUID
	case a.FSID != "":
		return name + " " + a.FSID
	}
	return name
}
