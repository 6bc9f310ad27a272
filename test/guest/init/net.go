package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setAddresses raises every interface and gives them the addresses of the
// command line. The kernel answers ping by itself.
func setAddresses() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	wanted := words("ip")
	for deadline := time.Now().Add(3 * time.Second); len(interfaces()) <= len(wanted) && len(wanted) > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	for _, name := range interfaces() {
		if err := raise(s, name); err != nil {
			return fmt.Errorf("raise %s: %w", name, err)
		}
	}
	for _, w := range wanted {
		address, mac, _ := strings.Cut(w, ",")
		name := find(mac)
		if name == "" {
			return fmt.Errorf("no interface for %s", w)
		}
		if err := setAddress(s, name, address); err != nil {
			return fmt.Errorf("%s on %s: %w", address, name, err)
		}
		say("address %s on %s", address, name)
	}
	for _, target := range words("ping") {
		go probe(target)
	}
	return nil
}

func interfaces() []string {
	paths, _ := filepath.Glob("/sys/class/net/*")
	names := make([]string, 0, len(paths))
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	slices.Sort(names)
	return names
}

// find is the interface with that address, or the first that is not a loopback.
func find(mac string) string {
	for _, name := range interfaces() {
		have, _ := os.ReadFile("/sys/class/net/" + name + "/address")
		if name != "lo" && (mac == "" || strings.EqualFold(strings.TrimSpace(string(have)), mac)) {
			return name
		}
	}
	return ""
}

func raise(s int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

func setAddress(s int, name, address string) error {
	ip, network, err := net.ParseCIDR(address)
	if err != nil {
		return err
	}
	for request, value := range map[uint]net.IP{unix.SIOCSIFADDR: ip.To4(), unix.SIOCSIFNETMASK: net.IP(network.Mask).To4()} {
		if request == unix.SIOCSIFNETMASK {
			continue
		}
		if err := setInet(s, name, request, value); err != nil {
			return err
		}
	}
	return setInet(s, name, unix.SIOCSIFNETMASK, net.IP(network.Mask).To4())
}

func setInet(s int, name string, request uint, ip net.IP) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(ip); err != nil {
		return err
	}
	return unix.IoctlIfreq(s, request, ifr)
}

// probe sends pings to an address until one is answered.
func probe(target string) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		say("ping %s: %v", target, err)
		return
	}
	defer func() { _ = unix.Close(s) }()
	_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	var to unix.SockaddrInet4
	copy(to.Addr[:], net.ParseIP(target).To4())
	for attempt := range uint16(60) {
		packet := []byte{8, 0, 0, 0, 0x6d, 0x76, byte(attempt >> 8), byte(attempt)}
		sum := checksum(packet)
		packet[2], packet[3] = byte(sum>>8), byte(sum)
		_ = unix.Sendto(s, packet, 0, &to)
		buf := make([]byte, 256)
		n, from, err := unix.Recvfrom(s, buf, 0)
		if a, ok := from.(*unix.SockaddrInet4); err == nil && ok && a.Addr == to.Addr && n >= 28 && buf[20] == 0 {
			say("ping %s answered", target)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	say("ping %s not answered", target)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
