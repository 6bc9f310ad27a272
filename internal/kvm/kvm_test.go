package kvm

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"microvm/test/need"
)

func TestAFileThatIsNotKVMIsReported(t *testing.T) {
	if err := Probe(t.TempDir() + "/kvm"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device that does not exist: %v", err)
	}
	if err := Probe("/dev/null"); err == nil || !strings.Contains(err.Error(), "is not KVM") {
		t.Errorf("/dev/null: %v", err)
	}
}

// TestProbeOfTheDeviceEnds with success or a reason. test/e2e checks that it succeeds in
// the VM host.
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
