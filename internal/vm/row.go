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

// States of the runner package of a VM, compared with the installed one and with its
// source.
const (
	RunnerCurrent   = "current"    // the VM was started with the installed package
	RunnerStale     = "stale"      // another package is installed; a restart uses it
	RunnerOutdated  = "outdated"   // the source builds another package; an update installs it
	RunnerNotBooted = "not booted" // a package is installed, the VM is not started
	RunnerDataOnly  = "data only"  // no package is installed
	RunnerUnknown   = "unknown"    // the source could not be built
)

// Row is one VM of the list.
type Row struct {
	Name       string `json:"name"`
	State      string `json:"state"`
	Hypervisor string `json:"hypervisor"`
	Runner     string `json:"runner"`
	// Current and Booted are the paths of the packages, empty if there is none.
	Current string `json:"current,omitempty"`
	Booted  string `json:"booted,omitempty"`
	// Since is when the hypervisor was started.
	Since     time.Time `json:"since,omitzero"`
	Memory    uint64    `json:"memoryBytes,omitempty"`
	CPU       float64   `json:"cpuSeconds,omitempty"`
	MACs      []string  `json:"macs,omitempty"`
	Addresses []string  `json:"addresses,omitempty"`
	// helpers are the templates of the helper units that its package needs.
	helpers []unit.Template
}

// Rows returns the rows of all VMs of a host. It reads files, and makes one call to
// systemd and one dump of the neighbour table.
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

// states returns the states of the VMs' loaded units, nil if systemd is not running. It
// does not call systemd if vms is 0.
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

// neighbours returns the neighbour table, nil if it cannot be read: addresses are an
// optional part of the list.
func neighbours() map[string][]netip.Addr {
	seen, err := netif.Neighbours()
	if err != nil {
		return nil
	}
	return seen
}

// Describe returns the row of a VM as far as files contain it. State is that of a VM
// that is not running.
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
	// While a VM runs, the package that it was started with counts.
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

// macs returns the MAC addresses of a guest, as far as they are in its plan.
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

// addresses inserts the addresses of the guest's MACs from the neighbour table before
// those that are known already. Link-local addresses are used if there are no others.
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

// use fills in memory, CPU time and Since.
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
