package hypervisor

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"microvm/internal/exit"
	"microvm/internal/spec"
)

// Rules is the spec.Rule of a spec's hypervisor. It assumes the newest version of the
// hypervisor; Compile checks the rules of the installed one.
func Rules(s *spec.Spec) spec.Faults {
	newest := &Builder{Version: func(string) (major, minor int, err error) { return math.MaxInt, 0, nil }}
	faults, err := newest.faults(s)
	if err != nil {
		return nil // the hypervisor is unknown, which package spec reports
	}
	return faults
}

// faults returns everything that the spec's hypervisor does not support.
func (b *Builder) faults(s *spec.Spec) (spec.Faults, error) {
	faults, err := unsupported(s)
	if err != nil {
		return nil, err
	}
	table, err := Table()
	if err != nil {
		return nil, err
	}
	more := slices.Concat(b.limits(s, table[s.Hypervisor]), backends[s.Hypervisor].faults(b, s), b.refuseLongLine(s))
	for _, f := range more {
		if !slices.ContainsFunc(faults, func(have spec.Fault) bool { return have.Path == f.Path }) {
			faults = append(faults, f)
		}
	}
	return faults, nil
}

// refuseReadiness refuses a readiness that would never be reported.
func refuseReadiness(s *spec.Spec, hasControl bool) spec.Faults {
	other := ReadyVMM
	if !hasControl {
		other = ReadyNone
	}
	var faults spec.Faults
	switch {
	case s.Readiness == ReadyGuest && s.Vsock.CID == nil:
		faults.Addf("readiness", "\"guest\" requires vsock.cid").Hintf("set vsock.cid, or set readiness to %q", other)
	case s.Readiness == ReadyVMM && s.Hypervisor == "alioth":
		faults.Addf("readiness", "\"vmm\" requires a control socket, and alioth has none").
			Hintf("set readiness to \"none\", or to \"guest\" with vsock.cid")
	case s.Readiness == ReadyVMM && !hasControl:
		faults.Addf("readiness", "\"vmm\" requires the control socket").
			Hintf("leave socket out for the default one, or set readiness to \"none\"")
	case s.Readiness == "", s.Readiness == ReadyGuest, s.Readiness == ReadyVMM, s.Readiness == ReadyNone:
	default:
		faults.AddUnknown("readiness", s.Readiness, slices.Compact([]string{ReadyGuest, other, ReadyNone}))
	}
	return faults
}

// refuseBalloon refuses a balloon that could not be set.
func refuseBalloon(s *spec.Spec) spec.Faults {
	if !s.Balloon || s.Socket.Value != nil {
		return nil
	}
	return spec.Faults{{Path: "balloon", Message: "requires the control socket", Remedy: "leave socket out for the default one"}}
}

// WhyNoBalloon returns why the balloon of a VM cannot be set, with a hint. The text begins
// with a verb, to be put after the VM's name.
func WhyNoBalloon(hypervisor string) error {
	table, err := Table()
	own, known := table[hypervisor]
	switch {
	case err != nil || !known || own.Balloon && own.Control != "":
		return exit.WithHint(errors.New("has no balloon"), "set balloon to true in its spec")
	case own.Balloon:
		return exit.WithHint(fmt.Errorf("runs under %s, which cannot set the size of a balloon", hypervisor), "use another hypervisor")
	}
	return exit.WithHint(fmt.Errorf("runs under %s, which does not support balloons", hypervisor), "use another hypervisor")
}
