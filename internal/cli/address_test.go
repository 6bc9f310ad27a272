package cli

import (
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

func TestGuestIsReachedTheWayItsHypervisorHas(t *testing.T) {
	cid := int64(7)
	vm := statedir.VM{Host: statedir.Host{StateDir: "/srv"}, Name: "web"}
	for _, test := range []struct {
		plan   hypervisor.Plan
		socket string
	}{
		{hypervisor.Plan{Hypervisor: "qemu", VsockCID: &cid}, ""},
		{hypervisor.Plan{Hypervisor: "firecracker", VsockCID: &cid}, "notify.vsock"},
		{hypervisor.Plan{Hypervisor: "cloud-hypervisor", VsockCID: &cid, Foreign: true}, "notify.vsock"},
		{hypervisor.Plan{Hypervisor: "cloud-hypervisor", VsockCID: &cid, Readiness: hypervisor.Readiness{Mode: "guest", VsockSocket: "own.vsock"}}, "own.vsock"},
	} {
		a, err := addressOf(vm, &test.plan)
		if err != nil || a.CID != 7 || a.Dir != "/srv/web" || a.Socket != test.socket {
			t.Errorf("%s: %+v, %v; want socket %q", test.plan.Hypervisor, a, err, test.socket)
		}
	}
	if _, err := addressOf(vm, &hypervisor.Plan{Hypervisor: "qemu"}); err == nil || err.Error() != "web has no vsock" || !strings.Contains(exit.Hint(err), "set vsock.cid") {
		t.Errorf("without a CID: %v", err)
	}
}
