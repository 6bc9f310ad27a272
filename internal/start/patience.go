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

// How long a start may take as long as it shows progress. The unit's time is extended
// step by step, sd_notify(3), until one of these bounds is reached; then the unit's
// own timeout applies.
const (
	// maxPrepare is for the host's part, such as copying or checking an image.
	maxPrepare = time.Hour
	// maxBoot is for a guest that has reported something: it is able to, so it will
	// report when it is up.
	maxBoot = time.Hour
	// maxSilent is for a guest that has not, and for a hypervisor that does not
	// answer, while it uses the CPU: it may never report.
	maxSilent = 10 * time.Minute
	// extendStep is how much time each sign of progress adds. systemd never shortens
	// the unit's own timeout by it.
	extendStep = 30 * time.Second
	// lookPause is the time between two checks.
	lookPause = extendStep / 3
	// working divides a CPU's time: a VM that uses, or waits for, at least 1/working
	// of it is making progress. The timers of an idle guest use less.
	working = 4
)

// extend returns the message that extends a start.
func extend() string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendStep.Microseconds()) }

// pause returns the time between two checks.
func (s *start) pause() time.Duration {
	if s.look == 0 {
		return lookPause
	}
	return s.look
}

// patiently calls work, and meanwhile asks the service manager for more time.
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
	// No request may arrive after READY=1.
	defer func() {
		cancel()
		<-ended
	}()
	return work()
}

// keep extends a start until ctx ends.
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

// watchProgress extends the start of a VM that shows progress, until ctx ends: whose
// guest reports something, or which uses the CPU.
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

// startIsOver stops all requests for more time: the next message is READY=1.
func (c *child) startIsOver() {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.over = true
}

// cpuWanted returns the CPU time that all threads of a process have used or waited
// for: on a busy host, a working guest gets little of it. It returns 0 for a process
// that no longer exists.
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

// cpuTime returns the CPU time that all threads of a process have used; 0 for one
// that no longer exists.
func cpuTime(pid int) time.Duration {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may contain any character.
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
