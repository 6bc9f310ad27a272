package start

import (
	"fmt"
	"strconv"
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
