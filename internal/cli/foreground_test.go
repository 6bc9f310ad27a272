package cli

import (
	"slices"
	"strings"
	"testing"

	"microvm/internal/foreign"
	"microvm/internal/statedir"
)

func TestAHypervisorInTheForegroundHasTheEnvironmentOfItsUnit(t *testing.T) {
	host := statedir.Host{StateDir: "/var/lib/microvms", User: "microvm"}
	got := asUnit(host, []string{
		"PATH=/root/bin", "HOME=/root", "USER=root", "SSH_AUTH_SOCK=/run/key", "AWS_SECRET=x", "LD_PRELOAD=/x.so", "TMPDIR=/root/tmp",
		"TERM=xterm", "LC_ALL=C.UTF-8", "DISPLAY=:0", "MICROVM_STATE_DIR=/vms", "LANGUAGE=de", "DISPLAYS=1",
	})
	slices.Sort(got)
	want := []string{
		"DISPLAY=:0", "HOME=/var/lib/microvms", "LC_ALL=C.UTF-8", "LOGNAME=microvm", "MICROVM_STATE_DIR=/vms",
		"PATH=" + foreign.UnitPath, "SHELL=/usr/sbin/nologin", "TERM=xterm", "USER=microvm",
	}
	if !slices.Equal(got, want) {
		t.Errorf("it is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
