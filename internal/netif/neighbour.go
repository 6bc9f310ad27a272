package netif

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbours returns the IP addresses in the kernel's neighbour table, ip-neighbour(8),
// by MAC address, which is in lower case with colons. A guest that has been silent for
// long is not in the table.
func Neighbours() (map[string][]netip.Addr, error) {
	entries, err := netlink.NeighList(0, unix.AF_UNSPEC)
	// An interrupted dump may lack an entry, which is acceptable.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("read the neighbour table: %w", err)
	}
	const unusable = unix.NUD_INCOMPLETE | unix.NUD_FAILED | unix.NUD_NOARP
	out := map[string][]netip.Addr{}
	for _, e := range entries {
		address, ok := netip.AddrFromSlice(e.IP)
		if !ok || e.State&unusable != 0 || len(e.HardwareAddr) != 6 {
			continue
		}
		mac := e.HardwareAddr.String()
		out[mac] = append(out[mac], address.Unmap())
	}
	return out, nil
}
