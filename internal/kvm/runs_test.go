package kvm

import (
	"runtime"
	"testing"
)

// TestKVMRunsGuestsOfItsOwnArchitecture and of no other.
func TestKVMRunsGuestsOfItsOwnArchitecture(t *testing.T) {
	for arch, want := range map[string]bool{"": true, "x86_64": runtime.GOARCH == "amd64", "aarch64": runtime.GOARCH == "arm64", "riscv64": false} {
		if got := Runs(arch); got != want {
			t.Errorf("%q: %t, want %t", arch, got, want)
		}
	}
}
