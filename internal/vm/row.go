// Package vm gathers what is known of a VM, for people: from its files, from
// systemd, the journal, its control group and the neighbour table.
package vm

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
	RunnerCurrent   = "current"    // the VM was started with what is installed
	RunnerStale     = "stale"      // another one is installed: a restart takes it
	RunnerOutdated  = "outdated"   // its source gives another one: an update makes it
	RunnerNotBooted = "not booted" // it is installed and not in use
	RunnerDataOnly  = "data only"  // nothing is installed
	RunnerUnknown   = "unknown"    // its source gives none
)

// Row is one VM of the list.
type Row struct {
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

// Rows looks at all VMs of a host: one call of systemd, one dump of the neighbour
// table, and files.
func Rows(ctx context.Context, host statedir.Host) ([]Row, error) {
	names, err := host.Names()
	if err != nil {
		return nil, err
	}
	loaded, err := states(ctx, len(names))
	if err != nil {
		return nil, err
	}
	seen, usages := neighbours(), cgroups{root: cgroupRoot}
	rows := make([]Row, len(names))
	for i, name := range names {
		v, err := host.VM(name)
		if err != nil {
			return nil, err
		}
		rows[i] = Describe(v)
		if state, ok := loaded[unit.VM(name)]; ok {
			rows[i].State = state
		} else if loaded == nil {
			rows[i].State = "unknown"
		}
		if Up(rows[i].State) {
			rows[i].use(&usages)
			rows[i].addresses(seen)
		}
	}
	return rows, nil
}

// states are the states of the VMs' units that systemd has loaded; nil where
// systemd does not run. Without VMs systemd is not asked.
func states(ctx context.Context, vms int) (map[string]string, error) {
	if !systemd.Running() {
		return nil, nil
	}
	loaded := map[string]string{}
	if vms == 0 {
		return loaded, nil
	}
	units, err := systemd.ListUnits(ctx, unit.EveryVM)
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		loaded[u.Name] = u.Active
	}
	return loaded, nil
}

// Up reports whether a unit in this state may have processes.
func Up(state string) bool { return state != "inactive" && state != "failed" && state != "unknown" }

// neighbours is empty where the table cannot be read: addresses are a service
// of the list, and no reason not to have one.
func neighbours() map[string][]netip.Addr {
	seen, err := netif.Neighbours()
	if err != nil {
		return nil
	}
	return seen
}

// Describe returns what files say of a VM; its State is that of one that is down.
func Describe(v statedir.VM) Row {
	r := Row{Name: v.Name, State: "inactive", Hypervisor: "-"}
	r.Current, _ = os.Readlink(filepath.Join(v.Dir(), "current"))
	r.Booted = v.BootedTarget()
	switch {
	case r.Current == "":
		r.Runner = RunnerDataOnly
	case r.Booted == "":
		r.Runner = RunnerNotBooted
	case r.Booted == r.Current:
		r.Runner = RunnerCurrent
	default:
		r.Runner = RunnerStale
	}
	// While a VM runs, what it was started with is what counts.
	link := filepath.Join(v.Dir(), "current")
	if r.Booted != "" {
		link = v.BootedLink()
	}
	if plan, ok := PlanAt(link); ok {
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
func (r *Row) addresses(seen map[string][]netip.Addr) {
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
func (r *Row) use(all *cgroups) {
	u, ok := all.usage(unit.VM(r.Name))
	if !ok {
		return
	}
	r.Memory, r.CPU = u.memory, u.cpu.Seconds()
	if r.State == "active" {
		r.Since = u.since
	}
}
