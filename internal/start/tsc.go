package start

import (
	"fmt"
	"strconv"
)

// tscPlaceholder returns the rate of the time stamp counter in kHz, for a placeholder;
// "0" makes the guest measure it itself. unlessKVM returns "0" for a guest that runs
// on KVM; the 10 ms of the measurement do not matter to an emulated one. native
// reports whether KVM can run the guest's architecture.
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
