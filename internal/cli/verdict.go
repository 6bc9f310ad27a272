package cli

import (
	"fmt"
	"strings"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// verdict is what is said of a job, and the unit whose last lines explain it,
// empty where nobody's do. hint may be empty.
type verdict struct {
	text, hint, unit string
	code             int
}

// jobFacts are what a job is judged by. None of them depends on how soon after
// the job's end it is looked at, as far as there is such a thing: the attempt is
// a record, and a state that has changed since only makes the words less exact.
type jobFacts struct {
	job    systemd.Job
	name   string // of the VM
	result systemd.Result
	state  systemd.State
	// attempt is the last start that failed and is tried again.
	attempt statedir.Attempt
}

// judge finds the words and the exit code for how a job ended.
func judge(f jobFacts) verdict {
	name := unit.Short(f.result.Unit)
	failed := verdict{unit: f.result.Unit, code: exit.CodeFailed}
	switch f.result.Result {
	case systemd.Canceled:
		return canceled(f)
	case systemd.Timeout:
		return verdict{
			text: fmt.Sprintf("systemd gave up on it after the time that JobTimeoutSec= or JobRunningTimeoutSec= of %s gives", name),
			hint: "see what it waited for with: microvm status " + f.name,
			code: exitLate,
		}
	case systemd.Failed:
		failed.text = name + " failed"
		if f.state.Result != "" && f.state.Result != "success" {
			failed.text += " (" + f.state.Result + ")"
		}
		if f.state.Active == "activating" {
			failed.text += ", and systemd tries again; end that with: microvm stop " + f.name
		}
		return failed
	case systemd.Dependency:
		return dependency(f)
	case systemd.Skipped, systemd.Done:
		v := verdict{text: fmt.Sprintf("systemd skipped %s, because a condition of it does not hold", name), code: exitSkipped,
			hint: "see the conditions with: systemctl cat " + name}
		if len(f.state.Unmet) > 0 {
			v.text += ": " + strings.Join(f.state.Unmet, ", ")
		}
		return v
	case systemd.Assert:
		failed.text = "an assertion of " + name + " does not hold"
		if len(f.state.Unmet) > 0 {
			failed.text += ": " + strings.Join(f.state.Unmet, ", ")
		}
		failed.hint, failed.unit = "see the assertions with: systemctl cat "+name, ""
		return failed
	case systemd.Collected:
		return verdict{text: "systemd dropped the job, because nothing needed it any more", hint: "try again: microvm " + string(f.job) + " " + f.name, code: exitCanceled}
	}
	failed.unit = ""
	failed.text, failed.hint = rare(f.result.Result, f.name, name)
	return failed
}

// rare are the words for results that a service of ours gets by what its
// operator configures, if at all.
func rare(result, vm, name string) (text, hint string) {
	switch result {
	case systemd.Frozen:
		return name + " is frozen", "thaw it with: systemctl thaw " + name
	case systemd.Concurrency:
		return "the slice of " + name + " has as many running units as its ConcurrencyHardMax= allows", "stop another one, or raise it"
	case systemd.Once:
		return name + " was started before, and is of a kind that starts once", ""
	case systemd.Unsupported:
		return "systemd does not support " + name + " on this host", ""
	case systemd.Invalid:
		return name + " is in no state for that", "see: microvm status " + vm
	}
	return fmt.Sprintf("the job of %s ended with %q", name, result), "see: systemctl status " + name
}

// canceled tells a start that failed and is tried again, whose job the unit's own
// ExecStopPost= has canceled, from one that somebody else ended.
func canceled(f jobFacts) verdict {
	name := unit.Short(f.result.Unit)
	tried := f.job != systemd.Stop && f.attempt.Job == f.result.Job && f.result.Job != 0
	if !tried && f.job != systemd.Stop && f.state.Active == "activating" && strings.HasPrefix(f.state.Sub, "auto-restart") {
		// An ExecStopPost= of an earlier version, or one that could not write.
		tried, f.attempt.Result = true, f.state.Result
	}
	switch {
	case tried && f.attempt.Result == "timeout":
		return verdict{
			text: fmt.Sprintf("the VM was not ready within the time that TimeoutStartSec= of %s gives, and systemd tries again; end that with: microvm stop %s", name, f.name),
			unit: f.result.Unit, code: exitLate,
		}
	case tried && f.attempt.Helper != "":
		return verdict{
			text: fmt.Sprintf("%s failed, and systemd tries again; end that with: microvm stop %s", unit.Short(f.attempt.Helper), f.name),
			unit: f.attempt.Helper, code: exit.CodeFailed,
		}
	case tried && f.attempt.Result == "success":
		return verdict{
			text: fmt.Sprintf("%s ended before the VM was ready, and systemd tries again; end that with: microvm stop %s", name, f.name),
			unit: f.result.Unit, code: exit.CodeFailed,
		}
	case tried:
		return verdict{
			text: fmt.Sprintf("%s failed before the VM was ready, and systemd tries again; end that with: microvm stop %s", name, f.name),
			unit: f.result.Unit, code: exit.CodeFailed,
		}
	case f.job == systemd.Stop:
		return verdict{text: "somebody started it again meanwhile", hint: "see: microvm status " + f.name, code: exitCanceled}
	}
	return verdict{text: "somebody stopped it meanwhile, or the host goes down", hint: "start it again with: microvm start " + f.name, code: exitCanceled}
}

// dependency names what a unit requires and did not get.
func dependency(f jobFacts) verdict {
	v := verdict{code: exit.CodeFailed}
	var words []string
	for _, u := range f.state.NotUp {
		name := unit.Short(u.Name)
		switch u.Active {
		case "failed":
			words = append(words, name+" failed")
			if v.unit == "" {
				v.unit = u.Name
			}
		default:
			words = append(words, fmt.Sprintf("%s is %s", name, u.Active))
		}
	}
	v.text = strings.Join(words, ", ")
	if len(words) == 0 {
		v.text = "a unit that it requires did not start"
		v.hint = "see which: systemctl list-dependencies " + unit.Short(unit.VM(f.name))
	}
	return v
}
