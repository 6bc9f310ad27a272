package vfio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// nodeMode is the mode of a device node that was handed to the hypervisor's user.
const nodeMode = 0o660

// initialMode is the mode with which VFIO creates a device node.
const initialMode = 0o600

// nodes returns the device nodes of a device that is bound to vfio-pci: that of its
// group, and that of the device itself if the kernel has one (VFIO_DEVICE_CDEV, Linux
// 6.6).
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
		return nil, exit.WithHint(fmt.Errorf("find device node: %w", groupErr), "check that devtmpfs is mounted at %s", s.dev)
	}
	return paths, nil
}

// handOver changes the owner of a device node to uid and gid and returns its previous
// state.
func handOver(path string, uid, gid int) (Node, error) {
	fd, st, err := openNode(path)
	if err != nil {
		return Node{}, err
	}
	defer safepath.Close(fd)
	before := Node{Path: path, UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777}
	if err := safepath.GiveNode(fd, safepath.As{Mode: nodeMode, UID: uid, GID: gid}); err != nil {
		return before, fmt.Errorf("change owner of device node %s: %w", path, err)
	}
	return before, nil
}

// restore restores owner and mode of a device node. It is not an error if the node no
// longer exists.
func (n Node) restore() error {
	if !strings.HasPrefix(n.Path, "/dev/vfio/") || filepath.Clean(n.Path) != n.Path {
		return fmt.Errorf("device node %q in the record is not below /dev/vfio", n.Path)
	}
	fd, _, err := openNode(n.Path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer safepath.Close(fd)
	if err := safepath.GiveNode(fd, safepath.As{Mode: n.Mode, UID: int(n.UID), GID: int(n.GID)}); err != nil {
		return fmt.Errorf("restore owner of device node %s: %w", n.Path, err)
	}
	return nil
}

// openNode opens a handle of a character device; the caller closes it.
func openNode(path string) (int, *unix.Stat_t, error) {
	fd, st, err := safepath.OpenNode(path)
	if errors.Is(err, safepath.ErrNotDevice) {
		return -1, nil, fmt.Errorf("%s is not a device node", path)
	}
	if err != nil {
		return -1, nil, fmt.Errorf("open device node %s: %w", path, err)
	}
	return fd, st, nil
}
