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

// claim is something of the host that a VM has for itself, or shares with some.
type claim struct {
	// check names it in a finding, what in its text.
	check, what string
	// remedy says what to change in one of the VMs.
	remedy string
	// clashes says whether another VM's claim of the same check cannot stand beside
	// it.
	clashes func(other claim) bool

	kind, key string
	info      os.FileInfo
	use       hypervisor.Volume
	port      hypervisor.HostPort
	user      bool
}

// claims are all of a VM.
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
			remedy: "forward another host port in one of them"}
		c.clashes = func(other claim) bool {
			return p.Proto == other.port.Proto && p.Port == other.port.Port && (anyAddress(p) || anyAddress(other.port) || p.Address == other.port.Address)
		}
		out = append(out, c)
	}
	for _, path := range socketsOf(vm, plan) {
		plain("socket", path, "socket "+path, "socket "+path, "give one of them another socket")
	}
	for _, id := range interfaceIDs(plan) {
		plain("interface", id, "interface "+id, "interface "+id, "give one of them another interface id")
	}
	for _, n := range plan.Interfaces {
		if n.MAC == "" {
			continue
		}
		mac, user := n.MAC, n.Type == "user"
		out = append(out, claim{kind: "mac", key: mac, user: user, check: "address " + mac, what: "Ethernet address " + mac,
			remedy: "give one of them another mac",
			// Each user network is one of its own.
			clashes: func(other claim) bool { return other.key == mac && !user && !other.user }})
	}
	for _, dev := range plan.PCI {
		plain("pci", dev.Address, "device "+dev.Address, "device "+dev.Address, "take it out of one of them")
	}
	for _, dev := range plan.USB {
		plain("usb", dev, "device "+dev, "USB device "+dev, "take it out of one of them")
	}
	if plan.VsockCID != nil {
		cid := strconv.FormatInt(*plan.VsockCID, 10)
		plain("cid", cid, "vsock", "CID "+cid, "give one of them another vsock.cid")
	}
	return out
}

func anyAddress(p hypervisor.HostPort) bool { return p.Address == "" || p.Address == "0.0.0.0" }

// imageClaim is that of a volume: by its file where that is there, and by its path.
func imageClaim(vm statedir.VM, v hypervisor.Volume) claim {
	path := absolute(vm, v.Image)
	info, _ := os.Stat(path)
	c := claim{kind: "image", key: path, info: info, use: v, check: "volume " + v.Image, what: "image " + path,
		remedy: "name another image in one of them; set readOnly in all, or shared in all that are meant to write it"}
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

// socketsOf are the sockets outside of the VM's own directory, each once.
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

// others are the claims of all VMs of the host by their names, but of one. Those
// that cannot be read are left out: their own examination says why.
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

// clashes compares what a VM has with what another has.
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

// compareVM says what a VM has that another has as well.
func (d *Doctor) compareVM(vm statedir.VM, plan *hypervisor.Plan) {
	mine := claims(vm, plan)
	names, all := d.others(vm.Name)
	before := len(d.findings)
	for _, name := range names {
		clashes(mine, all[name], func(m, _ claim) {
			d.failed(m.check, fmt.Sprintf("VM %s has %s, too", name, m.what), m.remedy+", and install it again")
		})
	}
	if len(d.findings) == before {
		d.ok("other VMs", "none has an image, a port, a socket, an address, an interface, a device or a CID of this one's")
	}
}

// compareVMs says what several VMs of the host have.
func (d *Doctor) compareVMs() {
	const check = "VMs"
	names, all := d.others("")
	before := len(d.findings)
	for i, name := range names {
		for _, other := range names[i+1:] {
			clashes(all[name], all[other], func(m, _ claim) {
				d.failed(check, fmt.Sprintf("VM %s and VM %s both have %s", name, other, m.what), m.remedy+", and install it again")
			})
		}
	}
	if len(d.findings) == before {
		d.ok(check, "no two have the same image, port, socket, address, interface, device or CID")
	}
}
