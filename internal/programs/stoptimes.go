package programs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/stop"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// askManager is how long systemd may take to say what its unit's time is: it
// answers in a millisecond, and a stop that waits for it comes too late.
const askManager = time.Second

// stopTimes divides MICROVM_STOP_TIMEOUT seconds, or else the unit's
// TimeoutStopSec=, or where systemd cannot be asked, as in a jail, the default.
func stopTimes(ctx context.Context, vm statedir.VM, logf exit.Logf) stop.Times {
	if s, err := strconv.Atoi(os.Getenv("MICROVM_STOP_TIMEOUT")); err == nil && s > 0 {
		return stop.Within(time.Duration(s) * time.Second)
	}
	limit, err := bounded(ctx, askManager, func(ctx context.Context) (time.Duration, error) {
		return systemd.StopTimeout(ctx, unit.VM(vm.Name))
	})
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // a jail has no bus
			logf("%w; the guest gets what TimeoutStopSec=90 leaves it", err)
		}
		return stop.DefaultTimes
	}
	return stop.Within(limit)
}

// bounded calls ask, and waits for it no longer than limit, whatever it waits
// for itself.
func bounded[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := ask(ctx)
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("systemd did not answer within %s: %w", limit, ctx.Err())
	}
}
