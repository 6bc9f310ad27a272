package systemd

import (
	"context"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"

	"microvm/internal/exit"
)

// Job is a type of job for a unit.
type Job string

// The types of jobs.
const (
	Start   Job = "start"
	Stop    Job = "stop"
	Restart Job = "restart"
)

// The results of jobs, see JobRemoved in org.freedesktop.systemd1(5). Those after
// Skipped are explained in systemd's src/core/job.h.
const (
	Done       = "done"
	Canceled   = "canceled"
	Timeout    = "timeout"
	Failed     = "failed"
	Dependency = "dependency"
	Skipped    = "skipped"

	Invalid     = "invalid"
	Assert      = "assert"
	Unsupported = "unsupported"
	Collected   = "collected"
	Once        = "once"
	Frozen      = "frozen"
	Concurrency = "concurrency"
)

// Result is how a job ended.
type Result struct {
	Unit string
	// Job is systemd's id of the job.
	Job uint32
	// Result is one of the results of jobs, empty if Err is set.
	Result string
	Err    error
}

// RunJobs enqueues a job for each unit, all at once, and calls ended for each in the
// order in which they end. It returns when all have ended or ctx is done; jobs then
// continue.
func RunJobs(ctx context.Context, job Job, units []string, ended func(Result)) error {
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	results := make(chan Result, len(units))
	for _, unit := range units {
		one := make(chan string, 1)
		id, err := enqueue(ctx, conn, job, unit, one)
		if err != nil {
			results <- Result{Unit: unit, Err: err}
			continue
		}
		go func() {
			select {
			case r := <-one:
				results <- Result{Unit: unit, Job: id, Result: r}
			case <-ctx.Done():
				results <- Result{Unit: unit, Job: id, Err: ctx.Err()}
			}
		}()
	}
	for range units {
		ended(<-results)
	}
	return ctx.Err()
}

func enqueue(ctx context.Context, conn *dbus.Conn, job Job, unit string, ended chan<- string) (uint32, error) {
	const mode = "replace"
	var id int
	var err error
	switch job {
	case Start:
		id, err = conn.StartUnitContext(ctx, unit, mode, ended)
	case Stop:
		id, err = conn.StopUnitContext(ctx, unit, mode, ended)
	case Restart:
		id, err = conn.RestartUnitContext(ctx, unit, mode, ended)
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", job, unit, err)
	}
	if err != nil && os.Geteuid() != 0 {
		err = exit.WithHint(err, "run it with sudo")
	}
	return uint32(id), err
}

// Enable makes systemd start units at boot, as systemctl enable does.
func Enable(ctx context.Context, units []string) error {
	return files(ctx, func(c *dbus.Conn) error {
		_, _, err := c.EnableUnitFilesContext(ctx, units, false, false)
		return err
	})
}

// Disable undoes Enable.
func Disable(ctx context.Context, units []string) error {
	return files(ctx, func(c *dbus.Conn) error {
		_, err := c.DisableUnitFilesContext(ctx, units, false)
		return err
	})
}

// files changes which unit files are enabled, and reloads systemd.
func files(ctx context.Context, change func(*dbus.Conn) error) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := change(c); err != nil {
		return err
	}
	return reload(ctx, c)
}
