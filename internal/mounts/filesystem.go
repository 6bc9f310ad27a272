package mounts

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileSystem identifies the file system of a directory across reboots, as st_dev of
// stat(2) does not.
type FileSystem struct {
	// Type is f_type of statfs(2), a number.
	Type uint32 `json:"type"`
	// FSID is f_fsid of statfs(2), empty if it is 0 or may change with each boot.
	// ext4 and btrfs derive it from the UUID, btrfs per subvolume, and ZFS from the
	// data set.
	FSID string `json:"fsid,omitempty"`
	// UUID is the UUID of the block device's content, empty if udev does not know it.
	UUID string `json:"uuid,omitempty"`
}

// byDevice are the file systems whose f_fsid is the device number or chosen when
// they are mounted, so that it may change with a reboot.
var byDevice = map[uint32]bool{
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.MSDOS_SUPER_MAGIC: true,
	unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true, unix.NFS_SUPER_MAGIC: true, unix.FUSE_SUPER_MAGIC: true,
	unix.ISOFS_SUPER_MAGIC: true, unix.SQUASHFS_MAGIC: true, unix.EXFAT_SUPER_MAGIC: true, unix.CEPH_SUPER_MAGIC: true,
	unix.SMB_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true, unix.CIFS_SUPER_MAGIC: true, unix.V9FS_MAGIC: true,
}

// Of returns the file system of a directory.
func Of(dir string) (FileSystem, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return FileSystem{}, fmt.Errorf("stat file system of %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	return OfFile(f)
}

// OfFile returns the file system of an open file, which may be opened with O_PATH.
func OfFile(f *os.File) (FileSystem, error) {
	var vol unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(int(f.Fd()), &vol); err != nil {
		return FileSystem{}, fmt.Errorf("stat file system of %s: %w", f.Name(), err)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return FileSystem{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	out := FileSystem{Type: uint32(vol.Type), UUID: uuidOf(st.Dev)}
	if id := vol.Fsid.Val; id != [2]int32{} && !byDevice[out.Type] {
		out.FSID = fmt.Sprintf("%08x%08x", uint32(id[0]), uint32(id[1]))
	}
	return out, nil
}

// uuids is the directory in which udev has a link for each block device with a UUID.
const uuids = "/dev/disk/by-uuid"

// uuidOf returns the UUID of a block device's content, "" if udev does not know it.
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

// Same reports whether two may be the same file system. Fields that are not known
// of both are not compared.
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

// typeNames are the names of the common types.
var typeNames = map[uint32]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", 0x2fc12fc1: "zfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.MSDOS_SUPER_MAGIC: "vfat",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.FUSE_SUPER_MAGIC: "fuse",
}

// String returns the type with the UUID or FSID, for messages.
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
