package vfio

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/mounts"
)

// usage is a block device or a network interface that the host needs.
type usage struct {
	// what says in a message what it is used for.
	what string
	// path is the directory of a block device or interface below /sys/devices.
	path string
}

// maxDepth limits how far stacked devices are followed.
const maxDepth = 16

// usedFor returns what the host needs the device for.
func (d device) usedFor(use []usage) []string {
	var why []string
	for _, u := range use {
		if strings.HasPrefix(u.path, d.path+"/") {
			why = append(why, u.what)
		}
	}
	return why
}

// readUse returns the block devices and interfaces that the host needs: those of
// mounted file systems, of swap and of default routes.
func (s system) readUse() ([]usage, error) {
	var use []usage
	for _, read := range []func() ([]usage, error){s.mounts, s.btrfs, s.swaps, s.routes} {
		more, err := read()
		if err != nil {
			return nil, fmt.Errorf("list devices in use: %w", err)
		}
		use = append(use, more...)
	}
	return use, nil
}

// fields calls do with the fields of each line of a file of /proc. A missing file has
// no lines.
func fields(path string, do func([]string) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if err := do(strings.Fields(in.Text())); err != nil {
			return err
		}
	}
	return in.Err()
}

// mounts returns the devices of mounted file systems, proc_pid_mountinfo(5).
func (s system) mounts() ([]usage, error) {
	var use []usage
	err := fields(filepath.Join(s.proc, "self/mountinfo"), func(f []string) error {
		if len(f) < 5 {
			return nil
		}
		more, err := s.block(f[2], fmt.Sprintf("it backs the file system mounted at %q", mounts.Unescape(f[4])))
		use = append(use, more...)
		return err
	})
	return use, err
}

// btrfs returns the devices of mounted btrfs file systems, for which mountinfo has
// device numbers of their own.
func (s system) btrfs() ([]usage, error) {
	links, err := filepath.Glob(filepath.Join(s.sysfs, "fs/btrfs/*/devices/*"))
	if err != nil {
		return nil, err
	}
	var use []usage
	for _, link := range links {
		uuid := filepath.Base(filepath.Dir(filepath.Dir(link)))
		more, err := s.blockDir(link, fmt.Sprintf("it backs the mounted btrfs file system %s", uuid), 0)
		if err != nil {
			return nil, err
		}
		use = append(use, more...)
	}
	return use, nil
}

// swaps returns the devices of swap areas, proc_swaps(5): for a swap file, that of its
// file system.
func (s system) swaps() ([]usage, error) {
	var use []usage
	err := fields(filepath.Join(s.proc, "swaps"), func(f []string) error {
		if len(f) < 2 || !strings.HasPrefix(f[0], "/") {
			return nil
		}
		path := mounts.Unescape(f[0])
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("swap %q: %w", path, err)
		}
		dev := uint64(st.Dev)
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			dev = uint64(st.Rdev)
		}
		more, err := s.block(fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)), fmt.Sprintf("it backs the swap area %q", path))
		use = append(use, more...)
		return err
	})
	return use, err
}

// block returns the block device with a number such as "8:1", and those below it. There
// are none if the number is that of a file system without a device.
func (s system) block(number, what string) ([]usage, error) {
	return s.blockDir(filepath.Join(s.sysfs, "dev/block", number), what, 0)
}

// blockDir returns a block device and the devices below it: the parts of a RAID or of
// device mapper, and the controllers of an NVMe drive that has several.
func (s system) blockDir(dir, what string, depth int) ([]usage, error) {
	path, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) || depth > maxDepth {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	use := []usage{{what, path}}
	below, err := filepath.Glob(filepath.Join(path, "slaves/*"))
	if err != nil {
		return nil, err
	}
	// A partition has no slaves of its own; its disk may.
	whole, err := filepath.Glob(filepath.Join(filepath.Dir(path), "slaves/*"))
	if err != nil {
		return nil, err
	}
	controllers, err := s.controllers(path)
	if err != nil {
		return nil, err
	}
	for _, link := range append(append(below, whole...), controllers...) {
		more, err := s.blockDir(link, what, depth+1)
		if err != nil {
			return nil, err
		}
		use = append(use, more...)
	}
	return use, nil
}

// controllers returns the NVMe controllers of a drive that belongs to a subsystem
// rather than to one controller (native multipath).
func (s system) controllers(path string) ([]string, error) {
	const subsystems = "/virtual/nvme-subsystem/"
	i := strings.Index(path, subsystems)
	if i < 0 {
		return nil, nil
	}
	name, _, _ := strings.Cut(path[i+len(subsystems):], "/")
	links, err := filepath.Glob(filepath.Join(path[:i+len(subsystems)], name, "nvme[0-9]*"))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, link := range links {
		// Namespaces match as well; they are directories.
		if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			found = append(found, link)
		}
	}
	return found, nil
}

// routes returns the interfaces of default routes.
func (s system) routes() ([]usage, error) {
	names := map[string]bool{}
	err := fields(filepath.Join(s.proc, "net/route"), func(f []string) error {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			names[f[0]] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = fields(filepath.Join(s.proc, "net/ipv6_route"), func(f []string) error {
		// destination prefix-length … interface. The kernel's own reject route is on
		// lo, which has no device.
		if len(f) == 10 && f[0] == strings.Repeat("0", 32) && f[1] == "00" {
			names[f[9]] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var use []usage
	for name := range names {
		more, err := s.netDir(filepath.Join(s.sysfs, "class/net", name), fmt.Sprintf("the host's default route goes through its interface %q", name), 0)
		if err != nil {
			return nil, err
		}
		use = append(use, more...)
	}
	return use, nil
}

// netDir returns an interface and those below it: the ports of a bridge or a bond, the
// parent of a VLAN.
func (s system) netDir(dir, what string, depth int) ([]usage, error) {
	path, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) || depth > maxDepth {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	use := []usage{{what, path}}
	below, err := filepath.Glob(filepath.Join(path, "lower_*"))
	if err != nil {
		return nil, err
	}
	for _, link := range below {
		more, err := s.netDir(link, what, depth+1)
		if err != nil {
			return nil, err
		}
		use = append(use, more...)
	}
	return use, nil
}
