package start

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// readTSC returns the time stamp counter, after all earlier instructions are done.
func readTSC() uint64

// tscWindow is how long the counter is measured. Each end is known to some tens of
// nanoseconds, so the rate is right to about 10 ppm, as good as the quartz.
const tscWindow = 10 * time.Millisecond

// tscKHz measures the rate of the time stamp counter in kHz.
func tscKHz() (int, error) {
	from, err := sampleTSC()
	if err != nil {
		return 0, err
	}
	time.Sleep(tscWindow)
	to, err := sampleTSC()
	if err != nil {
		return 0, err
	}
	return int(math.Round(float64(to.ticks-from.ticks) * 1e6 / float64(to.nanos-from.nanos))), nil
}

// tscSample is the counter at a time.
type tscSample struct {
	ticks uint64
	nanos int64
}

// sampleTSC reads the counter between two readings of the clock. It returns the
// shortest of several tries, as others were interrupted.
func sampleTSC() (tscSample, error) {
	var best tscSample
	shortest := int64(math.MaxInt64)
	for range 16 {
		before, err := rawClock()
		if err != nil {
			return best, err
		}
		ticks := readTSC()
		after, err := rawClock()
		if err != nil {
			return best, err
		}
		if took := after - before; took < shortest {
			shortest = took
			best = tscSample{ticks, before + took/2}
		}
	}
	return best, nil
}

// rawClock returns the time in nanoseconds, by a clock that is never adjusted.
func rawClock() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return t.Nano(), nil
}
