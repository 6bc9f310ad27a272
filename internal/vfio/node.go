package vfio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeMode lets the hypervisor's user and group use a device.
const nodeMode = 0o660

// rootsNode is the mode of a device node as VFIO makes it.
const rootsNode = 0o600

// nodes are the device nodes of a device that vfio-pci has: that of its group,
// and that of the device alone where the kernel has those (VFIO_DEVICE_CDEV,
// Linux 6.6).
func (s system) nodes(d device) ([]string, error) {
	var paths []string
	group := filepath.Join(s.dev, "vfio", d.group)
	_, groupErr := os.Stat(group)
	if groupErr == nil {
		paths = append(paths, group)
	}
	cdevs, err := filepath.Glob(filepath.Join(d.path, "vfio-dev/vfio*"))
	if err != nil {
		return nil, err
	}
	for _, cdev := range cdevs {
		path := filepath.Join(s.dev, "vfio/devices", filepath.Base(cdev))
		if _, err := os.Stat(path); err == nil {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("find its device node: %w; is devtmpfs mounted at %s?", groupErr, s.dev)
	}
	return paths, nil
}

// handOver gives a device node to uid and gid and returns how it was before.
func handOver(path string, uid, gid int) (Node, error) {
	fd, st, err := openNode(path)
	if err != nil {
		return Node{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	before := Node{Path: path, UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777}
	if int(st.Uid) == uid && int(st.Gid) == gid && before.Mode == nodeMode {
		return before, nil
	}
	// The mode first: once the node is another's, changing it takes a
	// capability that nothing else here needs. Root may have it back already
	// only by that same order reversed.
	if st.Uid != 0 {
		if err := chownFD(fd, 0, 0); err != nil {
			return before, fmt.Errorf("take device node %s: %w", path, err)
		}
	}
	if err := chmodFD(fd, nodeMode); err != nil {
		return before, fmt.Errorf("set the mode of device node %s: %w", path, err)
	}
	if err := chownFD(fd, uid, gid); err != nil {
		return before, fmt.Errorf("hand over device node %s: %w", path, err)
	}
	return before, nil
}

// restore puts a device node back as it was; one that is gone is no error.
func (n Node) restore() error {
	if !strings.HasPrefix(n.Path, "/dev/vfio/") || filepath.Clean(n.Path) != n.Path {
		return fmt.Errorf("device node %q of the record is not below /dev/vfio", n.Path)
	}
	fd, _, err := openNode(n.Path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := chownFD(fd, 0, 0); err != nil {
		return fmt.Errorf("take back device node %s: %w", n.Path, err)
	}
	if err := chmodFD(fd, n.Mode); err != nil {
		return fmt.Errorf("restore the mode of device node %s: %w", n.Path, err)
	}
	if err := chownFD(fd, int(n.UID), int(n.GID)); err != nil {
		return fmt.Errorf("restore the owner of device node %s: %w", n.Path, err)
	}
	return nil
}

// openNode opens a handle of a character device.
func openNode(path string) (int, *unix.Stat_t, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("open device node %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("open device node %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("%s is no device node", path)
	}
	return fd, &st, nil
}

func chownFD(fd, uid, gid int) error {
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// chmodFD goes through /proc because fchmod(2) refuses a handle.
func chmodFD(fd int, mode uint32) error {
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}
