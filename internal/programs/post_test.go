package programs

import (
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/systemd"
)

func TestHowFarARunGotIsSaid(t *testing.T) {
	cases := map[string]struct {
		run          systemd.Run
		mode, result string
		want         string
	}{
		"one that was ready":                   {systemd.Run{Ready: true, Status: "up"}, hypervisor.ReadyGuest, "signal", ""},
		"one that was stopped on purpose":      {systemd.Run{Stopping: true, Status: "Starting a"}, hypervisor.ReadyGuest, "success", ""},
		"a hypervisor that says why it died":   {systemd.Run{}, hypervisor.ReadyVMM, "protocol", ""},
		"a guest that stopped on its way":      {systemd.Run{Status: "Starting a"}, hypervisor.ReadyGuest, "timeout", `TimeoutStartSec= of its unit; its last report was "Starting a"`},
		"a guest that never said anything":     {systemd.Run{}, hypervisor.ReadyGuest, "timeout", "TimeoutStartSec= of its unit; its guest did not report anything"},
		"a hypervisor that hangs":              {systemd.Run{}, hypervisor.ReadyVMM, "timeout", "TimeoutStartSec= of its unit; its hypervisor did not report that it runs"},
		"a hypervisor that died while booting": {systemd.Run{Status: "Starting a"}, hypervisor.ReadyGuest, "protocol", `exited before the VM was ready; its last report was "Starting a"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := neverReady(c.run, c.mode, c.result)
			if !strings.HasSuffix(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
