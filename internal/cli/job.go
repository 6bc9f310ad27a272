package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

var (
	// did is printed for a VM whose job has succeeded.
	did = map[systemd.Job]string{systemd.Start: "is up", systemd.Stop: "is down", systemd.Restart: "is up again"}
	// didNot is part of the error of a VM whose job has failed.
	didNot = map[systemd.Job]string{systemd.Start: "did not start", systemd.Stop: "did not stop", systemd.Restart: "did not restart"}
)

// runJobs runs a job for each VM, all at once. It prints each success on stdout, and what
// a VM waits for on stderr. It returns an error for each VM that failed.
func runJobs(ctx context.Context, stdout, stderr io.Writer, job systemd.Job, vms []statedir.VM) ([]error, error) {
	if len(vms) == 0 {
		return nil, nil
	}
	var failed []error
	names, byUnit := map[string]string{}, map[string]statedir.VM{}
	var units []string
	for _, v := range vms {
		if job != systemd.Stop && !v.Installed() {
			failed = append(failed, notInstalled(v))
			continue
		}
		names[unit.VM(v.Name)], byUnit[unit.VM(v.Name)] = v.Name, v
		units = append(units, unit.VM(v.Name))
	}
	began, asked := time.Now(), false
	if job != systemd.Stop && len(units) > 0 {
		defer sayWaits(ctx, stderr, slices.Sorted(maps.Values(names)))()
	}
	err := systemd.RunJobs(ctx, job, units, func(r systemd.Result) {
		asked = true
		if err := ended(ctx, job, byUnit[r.Unit], r, began); err != nil {
			failed = append(failed, err)
			return
		}
		term.Say(stdout, names[r.Unit], "%s", did[job])
	})
	switch {
	case err != nil && ctx.Err() == nil:
		return nil, err
	case err != nil && !asked && len(units) > 0:
		return nil, exit.WithHint(errors.New("interrupted before systemd was asked"), "run: microvm %s %s", job, strings.Join(slices.Sorted(maps.Values(names)), " "))
	}
	return failed, nil
}

// linesOfFailure is how many log lines of a failed unit are printed.
const linesOfFailure = 12

// ended returns the error of a job that has ended, nil if it succeeded.
func ended(ctx context.Context, job systemd.Job, v statedir.VM, r systemd.Result, began time.Time) error {
	switch {
	case r.Err == nil && r.Result == systemd.Done && job == systemd.Stop:
		return nil
	case ctx.Err() != nil && r.Result != systemd.Done:
		return exit.WithHint(fmt.Errorf("interrupted: systemd continues to %s %s", job, v.Name), "see: microvm status %s", v.Name)
	case r.Err != nil:
		return r.Err
	}
	f := jobFacts{job: job, name: v.Name, result: r}
	state, err := systemd.LookAt(ctx, unit.VM(v.Name))
	if err == nil && r.Result == systemd.Canceled {
		f.attempt, _, err = v.LastAttempt()
	}
	if r.Result == systemd.Done {
		// This is also the result if a condition of the unit is not met.
		if err != nil || state.Active != "inactive" || len(state.Unmet) == 0 {
			return nil
		}
	} else if err != nil {
		return fmt.Errorf("%s %s (%s): %w", v.Name, didNot[job], r.Result, err)
	}
	f.state = state
	return explain(ctx, f, judge(f), began)
}

// explain returns the error of a verdict, with the last log lines of the unit that
// failed.
func explain(ctx context.Context, f jobFacts, v verdict, began time.Time) error {
	text := fmt.Sprintf("%s %s: %s", f.name, didNot[f.job], v.text)
	hints := v.hints
	if v.unit != "" {
		if lines := vm.LastLines(ctx, linesOfFailure, began, v.unit); len(lines) > 0 {
			text += "; last log lines:" + term.Indent(lines)
		}
		hints = append(hints, "see the full log with: microvm logs "+f.name)
	}
	err := errors.New(text)
	for _, hint := range hints {
		err = exit.WithHint(err, "%s", hint)
	}
	return jobFailure{err, v.code}
}
