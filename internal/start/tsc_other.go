//go:build !amd64

package start

// tscKHz is 0, for not known: this machine has no time stamp counter.
func tscKHz() (int, error) { return 0, nil }
