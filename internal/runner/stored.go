package runner

import (
	"strings"

	"microvm/internal/hypervisor"
)

// storedPlan is a plan as any version of this program wrote it: with the fields that
// plans have now, and with those that they had before.
type storedPlan struct {
	hypervisor.Plan
	// Networks are the interfaces, of which none has its bridge.
	Networks []hypervisor.Interface `json:"networks"`
	// Bridges are the names of the bridges that interfaces join, each once, in the
	// order of the interfaces.
	Bridges []string `json:"bridges"`
}

// current returns the plan with what it had under other names. The oldest plans have
// neither: there, the interfaces are those that helpers make, the addresses of others
// are not told, and nor are bridges.
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

// joinBridges gives each interface of type bridge one of the bridges, so that each is
// named: which interface is on which of them nobody asks.
func (s *storedPlan) joinBridges() {
	next := 0
	for i := range s.Interfaces {
		if n := &s.Interfaces[i]; n.Type == "bridge" && len(s.Bridges) > 0 {
			n.Bridge = s.Bridges[min(next, len(s.Bridges)-1)]
			next++
		}
	}
}

// madeByHelpers returns the interfaces of a plan that has only what helpers make.
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
