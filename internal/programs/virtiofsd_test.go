package programs

import (
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// TestNobodyElsesSocketIsMadeHere: a package of microvm.nix can name any path.
func TestNobodyElsesSocketIsMadeHere(t *testing.T) {
	vm := statedir.VM{Host: statedir.Host{StateDir: "/var/lib/microvms", User: "nobody", Group: "nogroup"}, Name: "web"}
	plan := &hypervisor.Plan{Foreign: true}
	for tag, socket := range map[string]string{"own": "own.sock", "whole": vm.Dir() + "/whole.sock", "run": "/run/run.sock", "other": "/var/lib/microvms/db/fs.sock"} {
		plan.Shares = append(plan.Shares, hypervisor.Share{Tag: tag, Source: "/srv", Socket: socket})
	}
	var log strings.Builder
	cfg, err := virtiofsdConfig(vm, plan, &log)
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, s := range cfg.Shares {
		served[s.Tag] = true
	}
	if len(served) != 2 || !served["own"] || !served["whole"] {
		t.Errorf("served are %v", served)
	}
	for _, want := range []string{"microvm-virtiofsd: web: share \"run\": socket /run/run.sock", "share \"other\"", "microvm-virtiofsd: web: hint: "} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in %q", want, log.String())
		}
	}
}
