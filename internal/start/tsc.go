package start

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// tscPlaceholder is the value of a placeholder for the rate of the time stamp
// counter; 0 says to the guest that it has to find out itself. Only a guest
// without KVM gets it, for which 10 ms do not matter. native is for one that KVM
// could run.
func tscPlaceholder(unlessKVM, native bool) (string, error) {
	if unlessKVM && native && usableKVM() == nil {
		return "0", nil
	}
	khz, err := tscKHz()
	if err != nil {
		return "", fmt.Errorf("measure the rate of the time stamp counter: %w", err)
	}
	return strconv.Itoa(khz), nil
}

// usableKVM says why /dev/kvm cannot be used.
func usableKVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	return unix.Close(fd)
}
