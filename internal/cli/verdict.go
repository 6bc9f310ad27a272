package cli

import (
	"fmt"
	"strings"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// verdict describes how a job ended. unit is the unit whose last log lines explain it;
// empty if there is none.
type verdict struct {
	text, unit string
	hints      []string
	code       int
}

// jobFacts are the input of judge. As far as possible they do not depend on how soon
// after the job's end they are read: the attempt is a record, and a state that has changed
// since then only makes the text less exact.
type jobFacts struct {
	job    systemd.Job
	name   string // of the VM
	result systemd.Result
	state  systemd.State
	// attempt is the last start that failed and that systemd retries.
	attempt statedir.Attempt
}

// willRetry is appended to the text of a start that failed for now.
const willRetry = ", and systemd will try again"

// hintRetry returns the hint that belongs to willRetry.
func hintRetry(vm string) []string { return []string{"stop the retries with: microvm stop " + vm} }

// judge returns the text and the exit code for how a job ended.
func judge(f jobFacts) verdict {
	name := unit.Short(f.result.Unit)
	failed := verdict{unit: f.result.Unit, code: exit.CodeFailed}
	switch f.result.Result {
	case systemd.Canceled:
		return canceled(f)
	case systemd.Timeout:
		return verdict{
			text:  "the job did not end within JobTimeoutSec= or JobRunningTimeoutSec= of " + name,
			hints: []string{"see what it waited for with: microvm status " + f.name},
			code:  exitLate,
		}
	case systemd.Failed:
		failed.text = name + " failed"
		if f.state.Result != "" && f.state.Result != "success" {
			failed.text += " (" + f.state.Result + ")"
		}
		if f.state.Active == "activating" {
			failed.text += willRetry
			failed.hints = hintRetry(f.name)
		}
		return failed
	case systemd.Dependency:
		return dependency(f)
	case systemd.Skipped, systemd.Done:
		v := verdict{text: fmt.Sprintf("systemd skipped %s, because a condition was not met", name), code: exitSkipped,
			hints: []string{"see the conditions with: systemctl cat " + name}}
		if len(f.state.Unmet) > 0 {
			v.text += ": " + strings.Join(f.state.Unmet, ", ")
		}
		return v
	case systemd.Assert:
		failed.text = "an assertion of " + name + " failed"
		if len(f.state.Unmet) > 0 {
			failed.text += ": " + strings.Join(f.state.Unmet, ", ")
		}
		failed.hints, failed.unit = []string{"see the assertions with: systemctl cat " + name}, ""
		return failed
	case systemd.Collected:
		return verdict{text: "systemd dropped the job, because nothing needed it any more", hints: []string{"try again: microvm " + string(f.job) + " " + f.name}, code: exitCanceled}
	}
	failed.unit = ""
	text, hint := rare(f.result.Result, f.name, name)
	failed.text = text
	if hint != "" {
		failed.hints = []string{hint}
	}
	return failed
}

// rare returns the text for results that our services have only if the operator has
// configured them so. hint may be empty.
func rare(result, vm, name string) (text, hint string) {
	switch result {
	case systemd.Frozen:
		return name + " is frozen", "thaw it with: systemctl thaw " + name
	case systemd.Concurrency:
		return "the slice of " + name + " has reached its ConcurrencyHardMax=", "stop another unit, or raise the limit"
	case systemd.Once:
		return name + " can only be started once, and was started before", ""
	case systemd.Unsupported:
		return "systemd does not support " + name + " on this host", ""
	case systemd.Invalid:
		return "the state of " + name + " does not allow this", "see: microvm status " + vm
	}
	return fmt.Sprintf("the job of %s ended with result %q", name, result), "see: systemctl status " + name
}

// canceled distinguishes a start that failed and is retried, whose job was canceled by
// ExecStopPost= of the unit itself, from one that somebody else canceled.
func canceled(f jobFacts) verdict {
	name := unit.Short(f.result.Unit)
	tried := f.job != systemd.Stop && f.attempt.Job == f.result.Job && f.result.Job != 0
	if !tried && f.job != systemd.Stop && f.state.Active == "activating" && strings.HasPrefix(f.state.Sub, "auto-restart") {
		// An ExecStopPost= of an earlier version, or one that could not write its record.
		tried, f.attempt.Result = true, f.state.Result
	}
	switch {
	case tried && f.attempt.Result == "timeout":
		return verdict{
			text: fmt.Sprintf("the VM was not ready within TimeoutStartSec= of %s", name) + willRetry, hints: hintRetry(f.name),
			unit: f.result.Unit, code: exitLate,
		}
	case tried && f.attempt.Helper != "":
		return verdict{
			text: unit.Short(f.attempt.Helper) + " failed" + willRetry, hints: hintRetry(f.name),
			unit: f.attempt.Helper, code: exit.CodeFailed,
		}
	case tried && f.attempt.Result == "success":
		return verdict{
			text: name + " exited before the VM was ready" + willRetry, hints: hintRetry(f.name),
			unit: f.result.Unit, code: exit.CodeFailed,
		}
	case tried:
		return verdict{
			text: name + " failed before the VM was ready" + willRetry, hints: hintRetry(f.name),
			unit: f.result.Unit, code: exit.CodeFailed,
		}
	case f.job == systemd.Stop:
		return verdict{text: "it was started again in the meantime", hints: []string{"see: microvm status " + f.name}, code: exitCanceled}
	}
	return verdict{text: "it was stopped in the meantime, or the host is shutting down", hints: []string{"start it again with: microvm start " + f.name}, code: exitCanceled}
}

// dependency names the required units that are not up.
func dependency(f jobFacts) verdict {
	v := verdict{code: exit.CodeFailed}
	var causes []string
	for _, u := range f.state.NotUp {
		name := unit.Short(u.Name)
		switch u.Active {
		case "failed":
			causes = append(causes, name+" failed")
			if v.unit == "" {
				v.unit = u.Name
			}
		default:
			causes = append(causes, fmt.Sprintf("%s is %s", name, u.Active))
		}
	}
	v.text = strings.Join(causes, ", ")
	if len(causes) == 0 {
		v.text = "a required unit did not start"
		v.hints = []string{"see which one with: systemctl list-dependencies " + unit.Short(unit.VM(f.name))}
	}
	return v
}
