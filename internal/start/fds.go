package start

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
)

// macvtapFiles are the open queues of a VM's macvtap interfaces, by the names of
// their placeholders.
type macvtapFiles struct {
	fds   map[string]int
	order []int
}

func (f *macvtapFiles) inherited() []int { return f.order }

func (f *macvtapFiles) fd(name string) (string, error) {
	fd, ok := f.fds[name]
	if !ok {
		return "", exit.WithHint(fmt.Errorf("unknown placeholder %q", name), "update microvm on this host")
	}
	return strconv.Itoa(fd), nil
}

// macvtaps returns the open queues of the VM's interfaces: those that root opened
// before preStart, or newly opened ones.
func (s *start) macvtaps(list []hypervisor.Macvtap) (*macvtapFiles, error) {
	if s.preStarted == nil || s.preStarted.Macvtaps == nil {
		return openMacvtaps(list)
	}
	files := &macvtapFiles{fds: map[string]int{}, order: s.preStarted.Macvtaps}
	left := files.order
	for _, m := range list {
		for queue := range m.Queues {
			if len(left) == 0 {
				return nil, fmt.Errorf("macvtap %q: the package changed during the start", m.ID)
			}
			files.fds[macvtapName(m.ID, queue)], left = left[0], left[1:]
		}
	}
	return files, nil
}

// openMacvtaps opens each queue of each interface. microvm-macvtap-interfaces has
// given /dev/tapN, where N is the interface's index, to the hypervisors' user; each
// open adds a queue.
func openMacvtaps(list []hypervisor.Macvtap) (*macvtapFiles, error) {
	files := &macvtapFiles{fds: map[string]int{}}
	for _, m := range list {
		index, err := netif.Index(m.ID)
		if err != nil {
			return nil, err
		}
		path := fmt.Sprintf("/dev/tap%d", index)
		for queue := range m.Queues {
			fd, err := openQueue(path, m.Queues > 1)
			if err != nil {
				return nil, fmt.Errorf("open queue %d of macvtap %q, %s: %w", queue, m.ID, path, err)
			}
			files.fds[macvtapName(m.ID, queue)] = fd
			files.order = append(files.order, fd)
		}
	}
	return files, nil
}

// macvtapName returns the name of a queue's placeholder.
func macvtapName(id string, queue int) string { return fmt.Sprintf("macvtap:%s:%d", id, queue) }

func openQueue(path string, multi bool) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq("")
	if err == nil {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if multi {
			flags |= unix.IFF_MULTI_QUEUE
		}
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
