package start

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/unit"
)

// warnOfVersion logs a warning if the package was built where its hypervisor's
// version was unknown, as the cause of later problems would be hard to find.
func (s *start) warnOfVersion() {
	if s.plan.CompiledFor == nil || !s.plan.CompiledFor.Unknown {
		return
	}
	hint := "rebuild the package with: microvm build"
	if !s.ByHand {
		hint = fmt.Sprintf("run: microvm update %[1]s && microvm restart %[1]s", s.vm.Name)
	}
	s.Logf("warning: %w", exit.WithHint(errors.New(s.plan.UnknownVersion()), "%s", hint))
}

// helperRemedies are the hints for what a helper should have created.
type helperRemedies struct {
	Taps, Macvtaps, Shares string
	// Otherwise is a second hint for all of them, or "".
	Otherwise string
}

func (s *start) remedies() helperRemedies {
	if s.ByHand {
		bin := filepath.Join(s.pkg.Dir(), "bin")
		return helperRemedies{
			Taps:     "create it with: sudo " + filepath.Join(bin, "tap-up"),
			Macvtaps: "create it with: sudo " + filepath.Join(bin, "macvtap-up"),
			Shares:   "serve it in another terminal with: sudo " + filepath.Join(bin, "virtiofsd-run"),
		}
	}
	start := func(helper unit.Template) string {
		return "create it with: systemctl start " + unit.Short(helper.Of(s.vm.Name))
	}
	return helperRemedies{
		Taps:     start(unit.Taps),
		Macvtaps: start(unit.Macvtaps),
		Shares:   start(unit.Virtiofsd),
		// The link that starts it is missing.
		Otherwise: "if that unit did not start with the VM, install the VM again",
	}
}

// missing returns an error for each interface and socket that the helpers should have
// created and that does not exist, with the hint from remedies. dir is the state
// directory.
func missing(plan *hypervisor.Plan, dir string, remedies helperRemedies) error {
	var errs error
	add := func(remedy, format string, args ...any) {
		err := exit.WithHint(fmt.Errorf(format, args...), "%s", remedy)
		if remedies.Otherwise != "" {
			err = exit.WithHint(err, "%s", remedies.Otherwise)
		}
		errs = errors.Join(errs, err)
	}
	for _, t := range plan.Taps {
		if !netif.Exists(t.ID) {
			add(remedies.Taps, "tap interface %q not found", t.ID)
		}
	}
	for _, m := range plan.Macvtaps {
		if !netif.Exists(m.ID) {
			add(remedies.Macvtaps, "macvtap interface %q not found", m.ID)
		}
	}
	for _, s := range plan.Shares {
		path := s.Socket
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); err != nil {
			add(remedies.Shares, "socket %s of share %q not found", s.Socket, s.Tag)
		}
	}
	return errs
}
