package start

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// TestAVMThatNeedsKVMSaysWhatHelps for a guest of another architecture, which this
// host's KVM cannot run.
func TestAVMThatNeedsKVMSaysWhatHelps(t *testing.T) {
	other := map[string]string{"amd64": "aarch64", "arm64": "x86_64"}[runtime.GOARCH]
	for _, c := range []struct {
		plan hypervisor.Plan
		want string
	}{
		{hypervisor.Plan{Hypervisor: "qemu", Arch: other, KVM: hypervisor.KVMRequired}, "set cpu in the spec to a model that QEMU emulates as well"},
		{hypervisor.Plan{Hypervisor: "firecracker", Arch: other, KVM: hypervisor.KVMRequired}, "use hypervisor qemu"},
		{hypervisor.Plan{Hypervisor: "qemu", Arch: other, KVM: hypervisor.KVMWanted}, ""},
		{hypervisor.Plan{Hypervisor: "qemu", Arch: other, KVM: hypervisor.KVMUnused}, ""},
	} {
		var log bytes.Buffer
		err := checkKVM(&c.plan, exit.Logger(&log, wrapper))
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(exit.Text(err), c.want) || log.Len() > 0 {
			t.Errorf("%+v: %v, %s", c.plan, err, log.String())
		}
	}
}
