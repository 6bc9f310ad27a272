package systemd

import (
	"math"
	"testing"
	"time"
)

func TestTimesOfSystemd(t *testing.T) {
	for us, want := range map[uint64]time.Duration{
		90_000_000: 90 * time.Second, 0: Infinity, math.MaxUint64: Infinity, math.MaxInt64: Infinity, 1: time.Microsecond,
	} {
		if got := fromMicroseconds(us); got != want {
			t.Errorf("%d µs: %s, want %s", us, got, want)
		}
	}
}

func TestVersionsOfSystemd(t *testing.T) {
	for text, want := range map[string]int{
		"257.9-1~deb13u1": 257, "v254": 254, "256": 256, "256~rc3": 256, "": 0, "none": 0,
	} {
		if got := majorVersion(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
