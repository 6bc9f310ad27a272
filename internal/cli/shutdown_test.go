package cli

import "testing"

func TestAVMThatRunsAsAServiceIsKnownByItsControlGroup(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/system-microvm.slice/microvm@web.a.service\n":                               "web.a",
		"2:pids:/user.slice\n1:name=systemd:/system.slice/system-microvm.slice/microvm@web.service\n": "web",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                               "",
		"0::/system.slice/system-microvm.slice/microvm@web.service/inner\n":                           "web",
		"0::/microvm@.slice\n": "",
	} {
		if got := serviceIn(groups); got != want {
			t.Errorf("%q: %q, want %q", groups, got, want)
		}
	}
}
