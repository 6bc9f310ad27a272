//go:build !amd64

package start

// tscKHz returns 0, for unknown: this machine has no time stamp counter.
func tscKHz() (int, error) { return 0, nil }
