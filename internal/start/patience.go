package start

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	// working is the part of a CPU that a VM uses, or waits for, which does something:
	// one divided by this. The timers of a guest that only waits use less.
	working = 4
)

// extend is the message that prolongs a start.
func extend() string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendStep.Microseconds()) }

// pause is the time between two looks.
func (s *start) pause() time.Duration {
	if s.look == 0 {
		return lookPause
	}
	return s.look
}

// patiently calls work, and asks the service manager for patience meanwhile.
func (s *start) patiently(work func() error) error {
	if s.Notify == "" {
		return work()
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxPrepare)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = keep(ctx, s.Notify, s.pause())
	}()
	// Nothing of it comes after what the work leads to.
	defer func() {
		cancel()
		<-ended
	}()
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
// its guest reports something, or it works.
func (c *child) watchProgress(ctx context.Context, pause time.Duration) {
	used, reports := cpuWanted(c.orders.PID), c.reports.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		usedNow, reportsNow := cpuWanted(c.orders.PID), c.reports.Load()
		bound := maxSilent
		if reportsNow > 0 {
			bound = maxBoot
		}
		progress := reportsNow > reports || usedNow-used >= pause/working
		if progress && time.Since(c.began) < bound {
			c.prolong()
		}
		used, reports = usedNow, reportsNow
	}
}

// prolong asks for more time, unless the start is over.
func (c *child) prolong() {
	c.sending.Lock()
	defer c.sending.Unlock()
	if !c.over {
		_ = notify.Send(c.notify, extend())
	}
}

// startIsOver lets nothing ask for more time after it: the next message is READY=1.
func (c *child) startIsOver() {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.over = true
}

// cpuWanted is the CPU time that a process has used and that it has waited for, with
// all its threads: on a host that is busy, a guest that works gets little. 0 is a
// process that is gone.
func cpuWanted(pid int) time.Duration {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/schedstat", pid))
	var sum time.Duration
	for _, task := range tasks {
		// Documentation/scheduler/sched-stats.rst of the kernel: nanoseconds on a CPU,
		// and nanoseconds on a run queue.
		var on, waiting int64
		data, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(data), &on, &waiting); err == nil {
			sum += time.Duration(on + waiting)
		}
	}
	if sum == 0 { // a kernel without CONFIG_SCHED_INFO
		return cpuTime(pid)
	}
	return sum
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
