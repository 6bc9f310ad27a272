package runner

import (
	"strings"

	"microvm/internal/hypervisor"
)

// storedPlan is a plan as any version of this program wrote it, with the fields that plans
// have now and those that they had earlier.
type storedPlan struct {
	hypervisor.Plan
	// Networks are the interfaces, without their bridges.
	Networks []hypervisor.Interface `json:"networks"`
	// Bridges are the names of the bridges that interfaces join, each once, in the
	// order of the interfaces.
	Bridges []string `json:"bridges"`
}

// current returns the plan with the values of the earlier fields. The oldest plans have none
// of them: their interfaces are those that helpers create, and other interfaces and bridges
// are not known.
func (s *storedPlan) current() *hypervisor.Plan {
	p := &s.Plan
	switch {
	case p.Interfaces != nil:
	case s.Networks != nil:
		p.Interfaces = s.Networks
		s.joinBridges()
	default:
		p.Interfaces = madeByHelpers(p)
	}
	return p
}

// joinBridges assigns the bridges to the interfaces of type bridge, so that each bridge is
// named. Which interface joins which of them does not matter.
func (s *storedPlan) joinBridges() {
	next := 0
	for i := range s.Interfaces {
		if n := &s.Interfaces[i]; n.Type == "bridge" && len(s.Bridges) > 0 {
			n.Bridge = s.Bridges[min(next, len(s.Bridges)-1)]
			next++
		}
	}
}

// madeByHelpers returns the interfaces of a plan that helpers create.
func madeByHelpers(p *hypervisor.Plan) []hypervisor.Interface {
	var out []hypervisor.Interface
	for _, t := range p.Taps {
		out = append(out, hypervisor.Interface{Type: "tap", ID: t.ID})
	}
	for _, m := range p.Macvtaps {
		out = append(out, hypervisor.Interface{Type: "macvtap", ID: m.ID, MAC: strings.ToLower(m.MAC)})
	}
	return out
}
