package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// dropIn adds lines to the unit of a VM until the test ends.
func dropIn(t *testing.T, name, lines string) {
	t.Helper()
	dir := "/run/systemd/system/microvm@" + name + ".service.d"
	sh(t, "mkdir -p "+dir+" && printf '"+lines+"' > "+dir+"/test.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r " + dir + "; systemctl daemon-reload") })
}

const runsOn, slow = "#!/bin/sh\nexec sleep 1000\n", "ExecStartPre=/bin/sleep 1000\\n"

// TestEveryEndOfAStartIsToldFromTheOthers provokes those that can be.
func TestEveryEndOfAStartIsToldFromTheOthers(t *testing.T) {
	in(t, "container")
	for _, test := range []struct {
		name, run, dropIn string
		code              int
		words             []string
	}{
		{"job-done", runsOn, "[Service]\\n", 0, []string{"job-done: is up"}},
		{"job-fails", runsOn, "[Service]\\nExecStartPre=/bin/false\\n", 1, []string{"microvm@job-fails failed before the VM was ready, and systemd will try again"}},
		{"job-final", runsOn, "[Service]\\nRestart=no\\nExecStartPre=/bin/false\\n", 1, []string{"microvm@job-final failed (exit-code)"}},
		{"job-config", runsOn, "[Service]\\nExecStart=\\nExecStart=/bin/sh -c \"exit 99\"\\nRestartPreventExitStatus=99\\n", 1, []string{"microvm@job-config failed (exit-code)"}},
		{"job-late", runsOn, "[Service]\\nTimeoutStartSec=1\\n" + slow, 6, []string{"not ready within TimeoutStartSec= of microvm@job-late", "systemd will try again"}},
		{"job-waits", runsOn, "[Unit]\\nJobRunningTimeoutSec=1\\n[Service]\\n" + slow, 6, []string{"JobRunningTimeoutSec= of microvm@job-waits"}},
		{"job-skips", runsOn, "[Unit]\\nConditionPathExists=/nowhere\\n", 7, []string{"systemd skipped microvm@job-skips", "ConditionPathExists=/nowhere"}},
		{"job-declines", runsOn, "[Service]\\nExecCondition=/bin/false\\n", 7, []string{"systemd skipped microvm@job-declines", "ExecCondition=/bin/false"}},
		{"job-asserts", runsOn, "[Unit]\\nAssertPathExists=/nowhere\\n", 1, []string{"an assertion of microvm@job-asserts failed", "AssertPathExists=/nowhere"}},
		{"job-needs", runsOn, "[Unit]\\nRequires=job-needed.service\\nAfter=job-needed.service\\n", 1, []string{"job-needed failed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh(t, "printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n' > /run/systemd/system/job-needed.service")
			foreign(t, test.name, test.run, "")
			dropIn(t, test.name, test.dropIn)
			want(t, test.code, test.words, "start", test.name)
		})
	}
}

// TestAStartThatSomebodyEndsIsNoFailure, whether a stop ends it or a cancel; and
// a stop that a start ends.
func TestAJobThatSomebodyEndsIsNoFailure(t *testing.T) {
	in(t, "container")
	foreign(t, "job-ended", runsOn, "")
	dropIn(t, "job-ended", "[Service]\\n"+slow)
	for _, by := range []string{
		"systemctl stop microvm@job-ended",
		"systemctl cancel $(systemctl list-jobs --no-legend | awk '$2 == \"microvm@job-ended.service\" { print $1 }')",
	} {
		got := make(chan string, 1)
		go func() {
			out, err := exec.Command("microvm", "start", "job-ended").CombinedOutput()
			got <- err.Error() + ": " + string(out)
		}()
		eventually(t, 30*time.Second, "systemctl list-jobs --no-legend | grep 'microvm@job-ended.service *start *running'")
		sh(t, by)
		if out := <-got; !strings.HasPrefix(out, "exit status 5: ") || !strings.Contains(out, "job-ended did not start: it was stopped in the meantime") {
			t.Errorf("%s: %s", by, out)
		}
		sh(t, "systemctl stop microvm@job-ended")
	}
}
