package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// claim is a resource of the host that a VM uses, and that other VMs can use only under
// some conditions, if at all.
type claim struct {
	// check is the name of its finding, what its name in the text.
	check, what string
	// remedy is what to change in one of the VMs.
	remedy string
	// clashes reports whether it conflicts with another VM's claim of the same kind.
	clashes func(other claim) bool

	kind, key string
	info      os.FileInfo
	use       hypervisor.Volume
	port      hypervisor.HostPort
	user      bool
}

// claims returns all claims of a VM.
func claims(vm statedir.VM, plan *hypervisor.Plan) []claim {
	var out []claim
	plain := func(kind, key, check, what, remedy string) {
		out = append(out, claim{check: check, what: what, remedy: remedy, kind: kind, key: key,
			clashes: func(other claim) bool { return other.key == key }})
	}
	for _, v := range plan.Volumes {
		out = append(out, imageClaim(vm, v))
	}
	for _, p := range plan.HostPorts {
		c := claim{kind: "port", port: p, check: fmt.Sprintf("port %d", p.Port), what: fmt.Sprintf("port %d/%s of the host", p.Port, p.Proto),
			remedy: "forward another host port in one of the VMs"}
		c.clashes = func(other claim) bool {
			return p.Proto == other.port.Proto && p.Port == other.port.Port && (anyAddress(p) || anyAddress(other.port) || p.Address == other.port.Address)
		}
		out = append(out, c)
	}
	for _, path := range socketsOf(vm, plan) {
		plain("socket", path, "socket "+path, "socket "+path, "give one of the VMs another socket")
	}
	for _, id := range interfaceIDs(plan) {
		plain("interface", id, "interface "+id, "interface "+id, "give one of the VMs another interface id")
	}
	for _, n := range plan.Interfaces {
		if n.MAC == "" {
			continue
		}
		mac, user := n.MAC, n.Type == "user"
		out = append(out, claim{kind: "mac", key: mac, user: user, check: "address " + mac, what: "Ethernet address " + mac,
			remedy: "give one of the VMs another mac",
			// User networks are separate from each other.
			clashes: func(other claim) bool { return other.key == mac && !user && !other.user }})
	}
	for _, dev := range plan.PCI {
		plain("pci", dev.Address, "device "+dev.Address, "device "+dev.Address, "remove it from one of the VMs")
	}
	for _, dev := range plan.USB {
		plain("usb", dev, "device "+dev, "USB device "+dev, "remove it from one of the VMs")
	}
	if plan.VsockCID != nil {
		cid := strconv.FormatInt(*plan.VsockCID, 10)
		plain("cid", cid, "vsock", "CID "+cid, "give one of the VMs another vsock.cid")
	}
	return out
}

func anyAddress(p hypervisor.HostPort) bool { return p.Address == "" || p.Address == "0.0.0.0" }

// imageClaim returns the claim of a volume. It is identified by its path, and also by its
// file, if that exists.
func imageClaim(vm statedir.VM, v hypervisor.Volume) claim {
	path := absolute(vm, v.Image)
	info, _ := os.Stat(path)
	c := claim{kind: "image", key: path, info: info, use: v, check: "volume " + v.Image, what: "image " + path,
		remedy: "use another image in one of the VMs, or set readOnly in all of them, or shared in all that write to it"}
	c.clashes = func(other claim) bool {
		one := other.key == path || info != nil && other.info != nil && os.SameFile(info, other.info)
		return one && !(v.ReadOnly && other.use.ReadOnly) && !(v.Shared && other.use.Shared)
	}
	return c
}

func absolute(vm statedir.VM, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(vm.Dir(), path)
}

// socketsOf returns the sockets outside of the VM's own directory, each once.
func socketsOf(vm statedir.VM, plan *hypervisor.Plan) []string {
	seen := map[string]bool{}
	var out []string
	add := func(path string) {
		if path == "" {
			return
		}
		path = absolute(vm, path)
		if !seen[path] && !strings.HasPrefix(path, vm.Dir()+"/") {
			seen[path] = true
			out = append(out, path)
		}
	}
	for _, path := range plan.StaleSockets {
		add(path)
	}
	for _, s := range plan.Shares {
		add(s.Socket)
	}
	for _, c := range []*hypervisor.Control{plan.Shutdown.Control, plan.Readiness.Control, plan.Balloon} {
		if c != nil {
			add(c.Socket)
		}
	}
	add(plan.Console)
	return out
}

func interfaceIDs(plan *hypervisor.Plan) []string {
	var out []string
	for _, t := range plan.Taps {
		out = append(out, t.ID)
	}
	for _, m := range plan.Macvtaps {
		out = append(out, m.ID)
	}
	return out
}

// others returns the claims of all VMs of the host but one, by name. VMs that cannot be
// read are left out: their own check reports why.
func (d *Doctor) others(except string) (names []string, all map[string][]claim) {
	all = map[string][]claim{}
	every, _ := d.Host.Names()
	for _, name := range every {
		if name == except {
			continue
		}
		vm, err := d.Host.VM(name)
		if err != nil {
			continue
		}
		p, err := vm.Current()
		if err != nil {
			continue
		}
		plan, err := p.Plan()
		_ = p.Close()
		if err != nil {
			continue
		}
		names = append(names, name)
		all[name] = claims(vm, plan)
	}
	return names, all
}

// clashes calls found for each claim of one VM that conflicts with one of another.
func clashes(mine, theirs []claim, found func(mine, theirs claim)) {
	for _, m := range mine {
		for _, t := range theirs {
			if m.kind == t.kind && m.clashes(t) {
				found(m, t)
				break
			}
		}
	}
}

// compareVM checks a VM for conflicts with the others.
func (d *Doctor) compareVM(vm statedir.VM, plan *hypervisor.Plan) {
	mine := claims(vm, plan)
	names, all := d.others(vm.Name)
	before := len(d.findings)
	for _, name := range names {
		clashes(mine, all[name], func(m, _ claim) {
			d.failed(m.check, fmt.Sprintf("VM %s also uses %s", name, m.what), m.remedy+", then update it")
		})
	}
	if len(d.findings) == before {
		d.ok("other VMs", "no conflict in images, ports, sockets, addresses, interfaces, devices and CIDs")
	}
}

// compareVMs checks all VMs of the host for conflicts.
func (d *Doctor) compareVMs() {
	const check = "VMs"
	names, all := d.others("")
	before := len(d.findings)
	for i, name := range names {
		for _, other := range names[i+1:] {
			clashes(all[name], all[other], func(m, _ claim) {
				d.failed(check, fmt.Sprintf("VM %s and VM %s both use %s", name, other, m.what), m.remedy+", then update it")
			})
		}
	}
	if len(d.findings) == before {
		d.ok(check, "no conflict in images, ports, sockets, addresses, interfaces, devices and CIDs")
	}
}
