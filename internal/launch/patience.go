package launch

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"microvm/internal/notify"
)

// How long a start may go on that shows progress: the unit's time is prolonged
// step by step, sd_notify(3), and once the bound is reached it ends in its time.
const (
	// maxPrepare is for the host's part, such as copying or checking an image.
	maxPrepare = time.Hour
	// maxBoot is for a guest that has reported something: it can, and will say when
	// it is up.
	maxBoot = time.Hour
	// maxSilent is for one that has not, and for a hypervisor that does not answer,
	// as long as it works: whether it ever reports, nobody knows.
	maxSilent = 10 * time.Minute
	// extendStep is what each sign of progress gains. systemd only ever prolongs its
	// own time by it.
	extendStep = 30 * time.Second
	// lookPause is the time between two looks.
	lookPause = extendStep / 3
	// working is how much CPU time a VM uses that does anything, between two looks:
	// a guest that waits has its timers, and one whose CPUs have stopped has not.
	working = 20 * time.Millisecond
)

// extend is the message that prolongs a start.
func extend() string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendStep.Microseconds()) }

// pause is the time between two looks.
func (l *Launcher) pause() time.Duration {
	if l.look == 0 {
		return lookPause
	}
	return l.look
}

// patiently calls work, and asks the service manager for patience meanwhile.
func (l *Launcher) patiently(work func() error) error {
	if l.Notify == "" {
		return work()
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxPrepare)
	defer cancel()
	go func() { _ = keep(ctx, l.Notify, l.pause()) }()
	return work()
}

// keep prolongs a start until ctx ends.
func keep(ctx context.Context, socket string, pause time.Duration) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if err := notify.Send(socket, extend()); err != nil {
			return err
		}
	}
}

// watchProgress prolongs the start of a VM that shows progress, until ctx ends:
// its guest reports something, or it uses CPU time.
func (c *child) watchProgress(ctx context.Context, pause time.Duration) {
	used, reports := cpuTime(c.orders.PID), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		usedNow, reportsNow := cpuTime(c.orders.PID), int(c.reports.Load())
		bound := maxSilent
		if reportsNow > 0 {
			bound = maxBoot
		}
		progress := reportsNow > reports || usedNow-used >= working
		if progress && time.Since(c.began) < bound {
			_ = notify.Send(c.notify, extend())
		}
		used, reports = usedNow, reportsNow
	}
}

// userHZ is USER_HZ, in which proc(5) counts CPU time: 100 on all architectures
// that run VMs here.
const userHZ = 100

// cpuTime is what a process has used, with all its threads; 0 where it is gone.
func cpuTime(pid int) time.Duration {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything.
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	const utime, stime = 11, 12 // fields 14 and 15, the state being field 3
	if len(fields) <= stime {
		return 0
	}
	ticks := 0
	for _, f := range fields[utime : stime+1] {
		n, err := strconv.Atoi(string(f))
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ
}
