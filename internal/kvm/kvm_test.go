package kvm

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"microvm/test/need"
)

func TestWhatIsNotKVMIsSaid(t *testing.T) {
	if err := Probe(t.TempDir() + "/kvm"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
	if err := Probe("/dev/null"); err == nil || !strings.Contains(err.Error(), "is not KVM") {
		t.Errorf("/dev/null: %v", err)
	}
}

// Where there is a device, the answer is one of two: it runs, or a reason.
// test/e2e shows in the VM host that it runs there.
func TestProbeOfTheDeviceEnds(t *testing.T) {
	if _, err := os.Stat(Device); err != nil {
		t.Skipf("this machine has no KVM: %v", err)
	}
	for i := range 20 {
		err := Probe(Device)
		if err != nil && need.Host() == need.VM {
			t.Fatalf("probe %d: %v", i, err)
		}
		if err != nil {
			t.Skipf("KVM is not usable here: %v", err)
		}
	}
}
