package launch

import (
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

func TestLandlockIsForKernelsThatHaveIt(t *testing.T) {
	var said strings.Builder
	l := &Launcher{Stderr: &said}
	plan := &hypervisor.Plan{Hypervisor: "cloud-hypervisor", Landlock: []string{"--landlock"}}
	got := l.landlock(plan)
	if have := kernelLandlock(); have >= landlockABI {
		if !slices.Equal(got, plan.Landlock) || said.Len() > 0 {
			t.Errorf("the kernel has version %d, and the arguments are %q; %s", have, got, said.String())
		}
	} else if got != nil || !strings.Contains(said.String(), "it runs without") {
		t.Errorf("the kernel has version %d, and the arguments are %q; %s", have, got, said.String())
	}
	said.Reset()
	if got := l.landlock(&hypervisor.Plan{Hypervisor: "qemu"}); got != nil || said.Len() > 0 {
		t.Errorf("a plan without arguments for Landlock gets %q; %s", got, said.String())
	}
}
