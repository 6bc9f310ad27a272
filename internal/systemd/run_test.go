package systemd

import "testing"

func TestWhatIsTriedAgain(t *testing.T) {
	always := Run{restart: "always", prevent: exitCodes([]any{[]int32{78, 200}, []int32{}})}
	for _, test := range []struct {
		run            Run
		result, status string
		want           bool
	}{
		{always, "exit-code", "1", true},
		{always, "exit-code", "78", false},
		{always, "exit-code", "200", false},
		{always, "exec-condition", "1", false},
		{always, "timeout", "TERM", true},
		{always, "success", "0", true},
		{Run{restart: "no"}, "exit-code", "1", false},
		{Run{restart: "always", Stopping: true}, "exit-code", "1", false},
	} {
		if got := test.run.TriedAgain(test.result, test.status); got != test.want {
			t.Errorf("%+v, %s, %s: %v", test.run, test.result, test.status, got)
		}
	}
	if exitCodes(nil) != nil || exitCodes("no list") != nil || exitCodes([]any{}) != nil {
		t.Error("exit codes of what has none")
	}
}
