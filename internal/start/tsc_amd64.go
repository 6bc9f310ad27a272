package start

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// readTSC reads the time stamp counter, after what comes before it is done.
func readTSC() uint64

// tscWindow is how long the counter is watched. Each end is known to some tens
// of nanoseconds, so the rate is right to about 10 ppm: as good as the quartz.
const tscWindow = 10 * time.Millisecond

// tscKHz measures the rate of the time stamp counter.
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

// sampleTSC reads the counter between two looks at the clock. Of several tries
// the one that took least is taken: in others, something came in between.
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

// rawClock is the time in nanoseconds, by a clock that nobody adjusts.
func rawClock() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return t.Nano(), nil
}
