package systemd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Run is what is known of a service's last run while its ExecStopPost= runs.
type Run struct {
	// Stopping says that somebody asked for a stop or a restart, so that the
	// service will not restart by itself.
	Stopping bool
	// StartJob is the id of the start job that still waits; 0 where none does.
	StartJob uint32
	// Ready says that the run became ready, Uptime for how long it was.
	Ready  bool
	Uptime time.Duration
	// Status is the last STATUS= that the run has sent.
	Status string
	// Pinned says that the other unit is active.
	Pinned bool
	// restart is the unit's Restart=, prevent the exit codes of its
	// RestartPreventExitStatus=.
	restart string
	prevent []int32
}

// TriedAgain says whether the service manager starts the service again by itself
// after a run that ended with $SERVICE_RESULT result and $EXIT_STATUS status,
// systemd.exec(5), and that nobody stopped.
func (r Run) TriedAgain(result, status string) bool {
	// A condition that does not hold is no end of a run, systemd.service(5).
	if r.Stopping || r.restart == "no" || result == "exec-condition" {
		return false
	}
	return !slices.ContainsFunc(r.prevent, func(code int32) bool { return status == fmt.Sprint(code) })
}

// LastRun asks systemd for the run of service unit, and whether unit other is
// active.
func LastRun(ctx context.Context, unit, other string) (Run, error) {
	c, err := connect(ctx)
	if err != nil {
		return Run{}, fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	props, err := c.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return Run{}, fmt.Errorf("ask systemd for %s: %w", unit, err)
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
		return Run{}, fmt.Errorf("ask systemd for its jobs: %w", err)
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
		return Run{}, fmt.Errorf("ask systemd for %s: %w", other, err)
	}
	r.Pinned = len(states) == 1 && states[0].ActiveState == "active"
	return r, nil
}

// exitCodes reads a property that is a list of exit codes and one of signals.
func exitCodes(property any) []int32 {
	lists, _ := property.([]any)
	if len(lists) == 0 {
		return nil
	}
	codes, _ := lists[0].([]int32)
	return codes
}

// CancelJob takes a job back; whoever waits for it is told that it was
// canceled. One that is done already is fine.
func CancelJob(ctx context.Context, id uint32) error {
	if !Running() {
		return fmt.Errorf("cancel job: %w", errNoManager)
	}
	conn, err := private(ctx)
	if err != nil {
		return fmt.Errorf("cancel job: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Object(managerName, managerPath).CallWithContext(ctx, managerInterface+".CancelJob", 0, id).Err; err != nil {
		return fmt.Errorf("cancel job: %w", err)
	}
	return nil
}

// ResetFailed starts the count of a unit's restarts over.
func ResetFailed(ctx context.Context, unit string) error {
	c, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	if err := c.ResetFailedUnitContext(ctx, unit); err != nil {
		return fmt.Errorf("reset the restart count of %s: %w", unit, err)
	}
	return nil
}

// RunApart has systemd run a command in a unit of its own, and does not wait for
// it. The unit is gone when the command has ended.
func RunApart(ctx context.Context, unit string, argv []string) error {
	c, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
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

var errNoManager = errors.New("systemd is not running here; start the VM by hand with: microvm run")
