package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

// How the runner in use relates to what is installed and to where it comes
// from.
const (
	runnerCurrent   = "current"    // the VM was started with what is installed
	runnerStale     = "stale"      // another one is installed: a restart takes it
	runnerOutdated  = "outdated"   // its source gives another one: an update makes it
	runnerNotBooted = "not booted" // it is installed and not in use
	runnerNone      = "data only"  // nothing is installed
	runnerUnknown   = "unknown"    // its source gives none
)

// row is one VM of the list.
type row struct {
	Name       string `json:"name"`
	State      string `json:"state"`
	Hypervisor string `json:"hypervisor"`
	Runner     string `json:"runner"`
	// Current and Booted are the packages, empty where there is none.
	Current string `json:"current,omitempty"`
	Booted  string `json:"booted,omitempty"`
	// Since is when the hypervisor was started.
	Since     time.Time `json:"since,omitzero"`
	Memory    uint64    `json:"memoryBytes,omitempty"`
	CPU       float64   `json:"cpuSeconds,omitempty"`
	MACs      []string  `json:"macs,omitempty"`
	Addresses []string  `json:"addresses,omitempty"`
	// helpers are the templates that its runner needs beside the VM's own.
	helpers []unit.Template
}

// rows looks at all VMs: one call of systemd, one dump of the neighbour table,
// and files.
func (c *Command) rows(ctx context.Context) ([]row, error) {
	names, err := c.Host.Names()
	if err != nil {
		return nil, err
	}
	states, err := vmStates(ctx, len(names))
	if err != nil {
		return nil, err
	}
	seen, usages := neighbours(), cgroups{root: cgroupRoot}
	rows := make([]row, len(names))
	for i, name := range names {
		vm, err := c.Host.VM(name)
		if err != nil {
			return nil, err
		}
		rows[i] = describeVM(vm)
		if state, ok := states[unit.VM(name)]; ok {
			rows[i].State = state
		} else if states == nil {
			rows[i].State = "unknown"
		}
		if up(rows[i].State) {
			rows[i].use(&usages)
			rows[i].addresses(seen)
		}
	}
	return rows, nil
}

// vmStates are the states of the VMs' units that systemd has loaded; nil where
// systemd does not run. Without VMs systemd is not asked.
func vmStates(ctx context.Context, vms int) (map[string]string, error) {
	if !systemd.Running() {
		return nil, nil
	}
	states := map[string]string{}
	if vms == 0 {
		return states, nil
	}
	units, err := systemd.ListUnits(ctx, unit.EveryVM)
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		states[u.Name] = u.Active
	}
	return states, nil
}

// up says whether a unit in this state may have processes.
func up(state string) bool { return state != "inactive" && state != "failed" && state != "unknown" }

// neighbours is empty where the table cannot be read: addresses are a service
// of the list, and no reason not to have one.
func neighbours() map[string][]netip.Addr {
	seen, err := netif.Neighbours()
	if err != nil {
		return nil
	}
	return seen
}

// describeVM is what files say of a VM.
func describeVM(vm statedir.VM) row {
	r := row{Name: vm.Name, State: "inactive", Hypervisor: "-"}
	r.Current, _ = os.Readlink(filepath.Join(vm.Dir(), "current"))
	r.Booted = vm.BootedTarget()
	switch {
	case r.Current == "":
		r.Runner = runnerNone
	case r.Booted == "":
		r.Runner = runnerNotBooted
	case r.Booted == r.Current:
		r.Runner = runnerCurrent
	default:
		r.Runner = runnerStale
	}
	// While a VM runs, what it was started with is what counts.
	link := filepath.Join(vm.Dir(), "current")
	if r.Booted != "" {
		link = vm.BootedLink()
	}
	if plan, ok := planAt(link); ok {
		r.Hypervisor = plan.Hypervisor
		r.MACs, r.helpers = macs(plan), unit.Helpers(plan)
		if plan.VsockCID != nil {
			r.Addresses = []string{fmt.Sprintf("vsock:%d", *plan.VsockCID)}
		}
	}
	return r
}

// macs returns the MAC addresses of a guest, as far as its package tells them.
func macs(p *hypervisor.Plan) []string {
	var out []string
	for _, n := range p.Interfaces {
		if n.MAC != "" {
			out = append(out, n.MAC)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// addresses puts what the neighbour table has for the guest's MACs before what
// is known anyway. Link-local addresses are shown where there are no others.
func (r *row) addresses(seen map[string][]netip.Addr) {
	var found, local []string
	for _, mac := range r.MACs {
		for _, a := range seen[mac] {
			if a.IsLinkLocalUnicast() {
				local = append(local, a.String())
				continue
			}
			found = append(found, a.String())
		}
	}
	if len(found) == 0 {
		found = local
	}
	slices.Sort(found)
	r.Addresses = append(slices.Compact(found), r.Addresses...)
}

// use fills in what the VM uses.
func (r *row) use(all *cgroups) {
	u, ok := all.usage(unit.VM(r.Name))
	if !ok {
		return
	}
	r.Memory, r.CPU = u.memory, u.cpu.Seconds()
	if r.State == "active" {
		r.Since = u.since
	}
}
