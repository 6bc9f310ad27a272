package start

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

func TestLandlockIsForKernelsThatHaveIt(t *testing.T) {
	var said strings.Builder
	logf := exit.Logger(&said, wrapper)
	plan := &hypervisor.Plan{Hypervisor: "cloud-hypervisor", Landlock: []string{"--landlock"}}
	got := landlock(plan, logf)
	if have := kernelLandlock(); have >= landlockABI {
		if !slices.Equal(got, plan.Landlock) || said.Len() > 0 {
			t.Errorf("the kernel has version %d, and the arguments are %q; %s", have, got, said.String())
		}
	} else if got != nil || !strings.Contains(said.String(), "without Landlock") {
		t.Errorf("the kernel has version %d, and the arguments are %q; %s", have, got, said.String())
	}
	said.Reset()
	if got := landlock(&hypervisor.Plan{Hypervisor: "qemu"}, logf); got != nil || said.Len() > 0 {
		t.Errorf("a plan without arguments for Landlock gets %q; %s", got, said.String())
	}
}

// TestAHypervisorSignalsItsOwnProcessesOnly: all VMs have one user, so the kernel
// would let one end the others.
func TestAHypervisorSignalsItsOwnProcessesOnly(t *testing.T) {
	if kernelLandlock() < scopeABI {
		t.Skip("the kernel has no Landlock scopes (Linux 6.12)")
	}
	victim := exec.Command("sleep", "60")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = victim.Process.Kill(), victim.Wait() })
	signals := fmt.Sprintf("sleep 60 & if kill -0 $!; then own=reached; fi; if kill -0 %d; then other=reached; fi; echo own $own other $other >done; kill $!", victim.Process.Pid)
	for bound, want := range map[string]string{"yes": "own reached other\n", "": "own reached other reached\n"} {
		s := launch(t, pack(t, &hypervisor.Plan{Argv: []string{"/bin/sh", "-c", signals}}), func(c *exec.Cmd) {
			c.Env = append(c.Env, roleBound+"="+bound)
		})
		if err := s.exit(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(s.dir, "done"))
		if err != nil || string(got) != want {
			t.Errorf("without new privileges %q: %q, %v, want %q", bound, got, err, want)
		}
	}
}
