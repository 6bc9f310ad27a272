package start

import (
	"fmt"
	"os"
	"path/filepath"

	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/unit"
)

// sayVersion says that a package was built where its hypervisor was not: nobody
// would look for what is off since.
func (s *start) sayVersion() {
	if s.plan.CompiledFor == nil || !s.plan.CompiledFor.Unknown {
		return
	}
	s.Logf("warning: %s", s.plan.UnknownVersion())
	if s.ByHand {
		s.Logf("hint: build the package again, with: microvm build")
		return
	}
	s.Logf("hint: run: microvm update %[1]s; microvm restart %[1]s", s.vm.Name)
}

// helperRemedies are what to do where something is missing that a helper makes.
type helperRemedies struct{ Taps, Macvtaps, Shares string }

func (s *start) remedies() helperRemedies {
	if s.ByHand {
		bin := filepath.Join(s.pkg.Dir(), "bin")
		return helperRemedies{
			Taps:     "make it with: sudo " + filepath.Join(bin, "tap-up"),
			Macvtaps: "make it with: sudo " + filepath.Join(bin, "macvtap-up"),
			Shares:   "serve it, in another terminal, with: sudo " + filepath.Join(bin, "virtiofsd-run"),
		}
	}
	start := func(helper unit.Template) string {
		return fmt.Sprintf("make it with: systemctl start %s (or install the VM again if that unit was not pulled in)", unit.Short(helper.Of(s.vm.Name)))
	}
	return helperRemedies{
		Taps:     start(unit.Taps),
		Macvtaps: start(unit.Macvtaps),
		Shares:   start(unit.Virtiofsd),
	}
}

// notMade lists what the helpers should have made and is not there, each with
// what makes it. dir is the state directory.
func notMade(plan *hypervisor.Plan, dir string, remedies helperRemedies) []string {
	var out []string
	for _, t := range plan.Taps {
		if !netif.Exists(t.ID) {
			out = append(out, fmt.Sprintf("tap interface %q is missing; %s", t.ID, remedies.Taps))
		}
	}
	for _, m := range plan.Macvtaps {
		if !netif.Exists(m.ID) {
			out = append(out, fmt.Sprintf("macvtap interface %q is missing; %s", m.ID, remedies.Macvtaps))
		}
	}
	for _, s := range plan.Shares {
		path := s.Socket
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); err != nil {
			out = append(out, fmt.Sprintf("socket %s of share %q is missing; %s", s.Socket, s.Tag, remedies.Shares))
		}
	}
	return out
}
