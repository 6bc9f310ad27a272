package systemd

import (
	"context"
	"fmt"
	"slices"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Run is the last run of a service, as seen by its ExecStopPost= commands.
type Run struct {
	// Stopping reports whether a stop or restart was requested, so that systemd does
	// not restart the service on its own.
	Stopping bool
	// StartJob is the id of the start job that still waits, 0 if there is none.
	StartJob uint32
	// Ready reports whether the run became ready, Uptime for how long it was.
	Ready  bool
	Uptime time.Duration
	// Status is the last STATUS= that the run sent.
	Status string
	// Pinned reports whether the other unit of LastRun is active.
	Pinned bool
	// restart is the unit's Restart=, prevent the exit codes of its
	// RestartPreventExitStatus=.
	restart string
	prevent []int32
}

// TriedAgain reports whether systemd starts the service again on its own after a run
// that ended with $SERVICE_RESULT result and $EXIT_STATUS status, systemd.exec(5).
func (r Run) TriedAgain(result, status string) bool {
	// An ExecCondition= that fails causes no restart, systemd.service(5).
	if r.Stopping || r.restart == "no" || result == "exec-condition" {
		return false
	}
	return !slices.ContainsFunc(r.prevent, func(code int32) bool { return status == fmt.Sprint(code) })
}

// LastRun returns the last run of the service unit, and whether the unit other is
// active.
func LastRun(ctx context.Context, unit, other string) (Run, error) {
	c, err := connect(ctx)
	if err != nil {
		return Run{}, err
	}
	defer c.Close()
	props, err := c.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return Run{}, fmt.Errorf("get properties of %s: %w", unit, err)
	}
	started, _ := props["ExecMainStartTimestampMonotonic"].(uint64)
	ended, _ := props["ExecMainExitTimestampMonotonic"].(uint64)
	active, _ := props["ActiveEnterTimestampMonotonic"].(uint64)
	r := Run{Ready: active >= started && active != 0}
	r.Status, _ = props["StatusText"].(string)
	r.restart, _ = props["Restart"].(string)
	r.prevent = exitCodes(props["RestartPreventExitStatus"])
	if r.Ready && ended > active {
		r.Uptime = time.Duration(ended-active) * time.Microsecond
	}
	jobs, err := c.ListJobsContext(ctx)
	if err != nil {
		return Run{}, fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		switch {
		case j.Unit != unit:
		case j.JobType == "start":
			r.StartJob = j.Id
		case j.JobType == "stop" || j.JobType == "restart":
			r.Stopping = true
		}
	}
	states, err := c.ListUnitsByNamesContext(ctx, []string{other})
	if err != nil {
		return Run{}, fmt.Errorf("get state of %s: %w", other, err)
	}
	r.Pinned = len(states) == 1 && states[0].ActiveState == "active"
	return r, nil
}

// exitCodes returns the exit codes of a property that consists of a list of exit
// codes and a list of signals.
func exitCodes(property any) []int32 {
	lists, _ := property.([]any)
	if len(lists) == 0 {
		return nil
	}
	codes, _ := lists[0].([]int32)
	return codes
}

// CancelJob cancels a job. Its result becomes Canceled for those who wait for it.
func CancelJob(ctx context.Context, id uint32) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("cancel job %d: %w", id, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Object(managerName, managerPath).CallWithContext(ctx, managerInterface+".CancelJob", 0, id).Err; err != nil {
		return fmt.Errorf("cancel job %d: %w", id, err)
	}
	return nil
}

// ResetFailed resets the failed state and the restart counter of a unit.
func ResetFailed(ctx context.Context, unit string) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ResetFailedUnitContext(ctx, unit); err != nil {
		return fmt.Errorf("reset restart counter of %s: %w", unit, err)
	}
	return nil
}

// RunApart makes systemd run a command in a transient unit, and does not wait for it.
// The unit is unloaded when the command has exited.
func RunApart(ctx context.Context, unit string, argv []string) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.StartTransientUnitContext(ctx, unit, "replace", []systemd.Property{
		systemd.PropExecStart(argv, true),
		systemd.PropType("oneshot"),
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}, nil)
	if err != nil {
		return fmt.Errorf("start %s: %w", unit, err)
	}
	return nil
}
