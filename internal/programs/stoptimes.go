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

// askManager is how long systemd may take to return a unit's timeout. It answers in a
// millisecond, and a stop must not lose its time by waiting.
const askManager = time.Second

// stopTimes returns the times within MICROVM_STOP_TIMEOUT seconds, or else within the
// unit's TimeoutStopSec=, or the default if systemd cannot be asked, as in a jail.
func stopTimes(ctx context.Context, vm statedir.VM, logf exit.Logf) stop.Times {
	if s, err := strconv.Atoi(os.Getenv("MICROVM_STOP_TIMEOUT")); err == nil && s > 0 {
		return stop.Within(time.Duration(s) * time.Second)
	}
	limit, err := bounded(ctx, askManager, func(ctx context.Context) (time.Duration, error) {
		return systemd.StopTimeout(ctx, unit.VM(vm.Name))
	})
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // a jail has no bus
			logf("%w; assuming TimeoutStopSec=90", err)
		}
		return stop.DefaultTimes
	}
	return stop.Within(limit)
}

// bounded calls ask, and returns an error after limit even if ask does not return.
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
