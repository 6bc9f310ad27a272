package systemd

import (
	"slices"
	"testing"

	"github.com/godbus/dbus/v5"
)

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
		t.Error("exit codes of a property without any")
	}
}

// TestConditionsAreReadAsTheBusHasThem: their type is a(sbbsi), that of commands
// a(sasbttttuii).
func TestConditionsAreReadAsTheBusHasThem(t *testing.T) {
	conditions := dbus.MakeVariantWithSignature([][]any{
		{"ConditionPathExists", false, true, "/x", int32(-1)}, {"ConditionHost", true, false, "a", int32(1)},
	}, dbus.ParseSignatureMust("a(sbbsi)"))
	if got := unmet(conditions); !slices.Equal(got, []string{"ConditionPathExists=!/x"}) {
		t.Errorf("conditions that do not hold: %q", got)
	}
	untested := dbus.MakeVariantWithSignature([][]any{{"ConditionHost", true, false, "a", int32(0)}}, dbus.ParseSignatureMust("a(sbbsi)"))
	if got := unmet(untested); !slices.Equal(got, []string{"ConditionHost=|a"}) {
		t.Errorf("conditions that were not checked: %q", got)
	}
	run := dbus.MakeVariantWithSignature([][]any{
		{"/bin/test", []string{"/bin/test", "-e", "/x"}, false, uint64(0), uint64(0), uint64(0), uint64(0), uint32(0), int32(0), int32(0)},
	}, dbus.ParseSignatureMust("a(sasbttttuii)"))
	if got := commands("ExecCondition=", run); !slices.Equal(got, []string{"ExecCondition=/bin/test -e /x"}) {
		t.Errorf("commands: %q", got)
	}
	if unmet(dbus.Variant{}) != nil || commands("x", dbus.Variant{}) != nil {
		t.Error("a unit without conditions has some")
	}
}
