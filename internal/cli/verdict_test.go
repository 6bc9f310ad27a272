package cli

import (
	"slices"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

// TestEveryResultOfAJobHasItsOwnWords checks all results of systemd, with all states that
// the unit can have by the time that it is read.
func TestEveryResultOfAJobHasItsOwnWords(t *testing.T) {
	const id = 41
	failed := statedir.Attempt{Job: id, Result: "exit-code", Status: "1"}
	helped := statedir.Attempt{Job: id, Result: "exit-code", Status: "1", Helper: "microvm-tap-interfaces@web.service"}
	late := statedir.Attempt{Job: id, Result: "timeout"}
	gone := statedir.Attempt{Job: id, Result: "success"}
	other := statedir.Attempt{Job: id - 1, Result: "exit-code"}
	states := []systemd.State{
		{Active: "deactivating", Sub: "stop-post", Result: "exit-code"},
		{Active: "activating", Sub: "auto-restart", Result: "exit-code"},
		{Active: "activating", Sub: "start", Result: "success"},
		{Active: "active", Sub: "running", Result: "success"},
		{Active: "inactive", Sub: "dead", Result: "exit-code"},
	}
	words := map[string]string{}
	for _, test := range []struct {
		job     systemd.Job
		result  string
		attempt statedir.Attempt
		states  []systemd.State
		want    string
		code    int
	}{
		{systemd.Start, systemd.Canceled, failed, states, "microvm@web failed before the VM was ready, and systemd will try again", exit.CodeFailed},
		{systemd.Restart, systemd.Canceled, failed, states, "microvm@web failed before the VM was ready, and systemd will try again", exit.CodeFailed},
		{systemd.Start, systemd.Canceled, helped, states, "microvm-tap-interfaces@web failed, and systemd will try again", exit.CodeFailed},
		{systemd.Start, systemd.Canceled, late, states, "the VM was not ready within TimeoutStartSec= of microvm@web, and systemd will try again", exitLate},
		{systemd.Start, systemd.Canceled, gone, states, "microvm@web exited before the VM was ready, and systemd will try again", exit.CodeFailed},
		// The attempt of another job is ignored.
		{systemd.Start, systemd.Canceled, other, []systemd.State{states[0], states[3], states[4]}, "it was stopped in the meantime", exitCanceled},
		{systemd.Start, systemd.Canceled, statedir.Attempt{}, []systemd.State{states[3], states[4]}, "it was stopped in the meantime", exitCanceled},
		// Units of an earlier version leave no record.
		{systemd.Start, systemd.Canceled, statedir.Attempt{}, states[1:2], "microvm@web failed before the VM was ready", exit.CodeFailed},
		{systemd.Stop, systemd.Canceled, failed, states[2:], "it was started again in the meantime", exitCanceled},
		{systemd.Start, systemd.Timeout, other, states, "JobTimeoutSec=", exitLate},
		{systemd.Stop, systemd.Timeout, other, states, "JobTimeoutSec=", exitLate},
		{systemd.Start, systemd.Failed, other, []systemd.State{{Active: "failed", Result: "exit-code"}}, "microvm@web failed (exit-code)", exit.CodeFailed},
		{systemd.Start, systemd.Failed, other, []systemd.State{{Active: "activating", Result: "timeout"}}, "microvm@web failed (timeout), and systemd will try again", exit.CodeFailed},
		{systemd.Start, systemd.Dependency, other, []systemd.State{{Active: "inactive", NotUp: []systemd.Unit{
			{Name: "srv-images.mount", Active: "inactive"}, {Name: "microvm-tap-interfaces@web.service", Active: "failed"},
		}}}, "srv-images.mount is inactive, microvm-tap-interfaces@web failed", exit.CodeFailed},
		{systemd.Start, systemd.Dependency, other, states[:1], "a required unit did not start", exit.CodeFailed},
		{systemd.Start, systemd.Skipped, other, states[4:], "systemd skipped microvm@web, because a condition was not met", exitSkipped},
		{systemd.Start, systemd.Done, other, []systemd.State{{Active: "inactive", Unmet: []string{"ConditionPathExists=/x"}}}, "a condition was not met: ConditionPathExists=/x", exitSkipped},
		{systemd.Start, systemd.Assert, other, []systemd.State{{Active: "inactive", Unmet: []string{"AssertPathExists=/x"}}}, "an assertion of microvm@web failed: AssertPathExists=/x", exit.CodeFailed},
		{systemd.Start, systemd.Collected, other, states[4:], "systemd dropped the job", exitCanceled},
		{systemd.Start, systemd.Invalid, other, states[4:], "does not allow this", exit.CodeFailed},
		{systemd.Start, systemd.Unsupported, other, states[4:], "does not support", exit.CodeFailed},
		{systemd.Start, systemd.Once, other, states[4:], "can only be started once", exit.CodeFailed},
		{systemd.Start, systemd.Frozen, other, states[4:], "is frozen", exit.CodeFailed},
		{systemd.Start, systemd.Concurrency, other, states[4:], "ConcurrencyHardMax=", exit.CodeFailed},
		{systemd.Start, "novel", other, states[4:], `ended with result "novel"`, exit.CodeFailed},
	} {
		for _, state := range test.states {
			v := judge(jobFacts{job: test.job, name: "web", state: state, attempt: test.attempt,
				result: systemd.Result{Unit: "microvm@web.service", Job: id, Result: test.result}})
			if !strings.Contains(v.text, test.want) || v.code != test.code {
				t.Errorf("%s ended with %s, %+v, the unit %+v:\n%q, code %d\nwant %q, code %d", test.job, test.result, test.attempt, state, v.text, v.code, test.want, test.code)
			}
			if strings.ContainsAny(v.text+strings.Join(v.hints, ""), "\n;") {
				t.Errorf("more than a line each: %q, %q", v.text, v.hints)
			}
			if strings.HasSuffix(v.text, willRetry) != slices.Contains(v.hints, "stop the retries with: microvm stop web") {
				t.Errorf("%q has the hints %q", v.text, v.hints)
			}
			if was, ok := words[v.text]; ok && was != test.result && v.code != exitSkipped {
				t.Errorf("%s and %s have the same words: %s", was, test.result, v.text)
			}
			words[v.text] = test.result
		}
	}
}
