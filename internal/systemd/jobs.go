package systemd

import (
	"context"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Job is what is asked of a unit.
type Job string

// The jobs, each the method of the manager that asks for it.
const (
	Start   Job = "start"
	Stop    Job = "stop"
	Restart Job = "restart"
)

// Done is the result of a job that did what it should. The others are
// canceled, timeout, failed, dependency and skipped, see JobRemoved in
// org.freedesktop.systemd1(5).
const Done = "done"

// Result is how a job ended.
type Result struct {
	Unit string
	// Result is systemd's word for it; empty where Err is set.
	Result string
	Err    error
}

// RunJobs asks for a job of each unit, all at once, and calls ended for each in
// the order in which they end. It returns when all have ended or ctx has; jobs
// that are under way then go on.
func RunJobs(ctx context.Context, job Job, units []string, ended func(Result)) error {
	if !Running() {
		return errNoManager
	}
	conn, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	results := make(chan Result, len(units))
	for _, unit := range units {
		one := make(chan string, 1)
		if err := enqueue(ctx, conn, job, unit, one); err != nil {
			results <- Result{Unit: unit, Err: err}
			continue
		}
		go func() {
			select {
			case r := <-one:
				results <- Result{Unit: unit, Result: r}
			case <-ctx.Done():
				results <- Result{Unit: unit, Err: ctx.Err()}
			}
		}()
	}
	for range units {
		ended(<-results)
	}
	return ctx.Err()
}

func enqueue(ctx context.Context, conn *dbus.Conn, job Job, unit string, ended chan<- string) error {
	const mode = "replace"
	var err error
	switch job {
	case Start:
		_, err = conn.StartUnitContext(ctx, unit, mode, ended)
	case Stop:
		_, err = conn.StopUnitContext(ctx, unit, mode, ended)
	case Restart:
		_, err = conn.RestartUnitContext(ctx, unit, mode, ended)
	}
	if err != nil && os.Geteuid() != 0 {
		return fmt.Errorf("ask systemd to %s %s: %w; run it with sudo", job, unit, err)
	}
	if err != nil {
		return fmt.Errorf("ask systemd to %s %s: %w", job, unit, err)
	}
	return nil
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

func files(ctx context.Context, change func(*dbus.Conn) error) error {
	if !Running() {
		return errNoManager
	}
	c, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	if err := change(c); err != nil {
		return err
	}
	if err := c.ReloadContext(ctx); err != nil {
		return fmt.Errorf("make systemd read its units again: %w; run: systemctl daemon-reload", err)
	}
	return nil
}
