package runner

import (
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

var interfaceTypes = []string{"user", "tap", "macvtap", "bridge"}

var macvtapModes = []string{"private", "vepa", "bridge", "passthru", "source"}

// checker collects the faults of a plan that was read.
type checker struct {
	faults spec.Faults
	seen   map[string]bool
}

// validate checks every name in a plan that programs act on, some of them as root, and
// returns all faults at once.
func validate(p *hypervisor.Plan) error {
	c := &checker{seen: map[string]bool{}}
	if !p.Foreign {
		c.check("name", spec.ValidateVMName(p.Name))
	}
	// It is printed, and must not contain control sequences.
	c.check("hypervisor", spec.ValidateWord("hypervisor", p.Hypervisor))
	if p.System != "" && (!filepath.IsAbs(p.System) || strings.ContainsAny(p.System, "\x00\n")) {
		c.faults.Addf("system", "invalid path %q: must be absolute", p.System)
	}
	c.network(p)
	for _, d := range p.PCI {
		c.check("PCI device", spec.ValidatePCIAddress(d.Address))
		c.once("PCI device", d.Address)
	}
	c.shares(p)
	c.files(p)
	c.sockets(p)
	if p.VsockCID != nil && (*p.VsockCID < 3 || *p.VsockCID > 1<<32-2) {
		c.faults.Addf("vsock-cid", "must be from 3 to 4294967294, not %d", *p.VsockCID)
	}
	return c.faults.Err()
}

// check adds err as a fault of what, unless err is nil. The remedies are left out: they
// are for the author of a spec, and a package has to be built again.
func (c *checker) check(what string, err error) {
	if err != nil {
		c.faults.Addf(what, "%v", err)
	}
}

// once adds a fault if that kind of thing already has that name.
func (c *checker) once(what, name string) {
	if c.seen[what+" "+name] {
		c.faults.Addf(what, "%q appears more than once", name)
	}
	c.seen[what+" "+name] = true
}

func (c *checker) network(p *hypervisor.Plan) {
	for _, n := range p.Interfaces {
		if !slices.Contains(interfaceTypes, n.Type) {
			c.faults.Addf("interface", "invalid type %q: must be one of %s", n.Type, strings.Join(interfaceTypes, ", "))
		}
		if n.ID != "" {
			c.check("interface", spec.ValidateInterfaceLabel(n.ID))
		}
		if n.MAC != "" {
			c.check("interface "+n.ID, spec.ValidateMAC(n.MAC))
		}
		if n.Bridge != "" {
			c.check("bridge", spec.ValidateInterfaceName(n.Bridge))
		}
	}
	for _, t := range p.Taps {
		c.check("tap interface", spec.ValidateInterfaceName(t.ID))
		c.once("interface", t.ID)
	}
	for _, m := range p.Macvtaps {
		c.check("macvtap interface", spec.ValidateInterfaceName(m.ID))
		c.once("interface", m.ID)
		c.check("macvtap link", spec.ValidateInterfaceName(m.Link))
		c.check("macvtap "+m.ID, spec.ValidateMAC(m.MAC))
		if !slices.Contains(macvtapModes, m.Mode) {
			c.faults.Addf("macvtap "+m.ID, "invalid mode %q: must be one of %s", m.Mode, strings.Join(macvtapModes, ", "))
		}
		if m.Queues < 0 || m.Queues > 256 {
			c.faults.Addf("macvtap "+m.ID, "must have at most 256 queues, not %d", m.Queues)
		}
	}
}

func (c *checker) shares(p *hypervisor.Plan) {
	for _, s := range p.Shares {
		c.check("share", spec.ValidateTag(s.Tag))
		c.once("share", s.Tag)
		// An absolute path is checked where the VM's directory is known.
		if !p.Foreign || !filepath.IsAbs(s.Socket) {
			c.check("share "+s.Tag+": socket", spec.ValidateInside(s.Socket))
		}
		c.once("socket", s.Socket)
		if s.Virtiofsd != "" && !filepath.IsAbs(s.Virtiofsd) {
			c.faults.Addf("share "+s.Tag, "invalid path %q of virtiofsd: must be absolute", s.Virtiofsd)
		}
		if s.Source == "" || strings.ContainsAny(s.Source, "\x00\n") {
			c.faults.Addf("share "+s.Tag, "invalid source %q: must be the path of a directory", s.Source)
		}
	}
}

// files checks the files that are removed and created in the VM's directory, and those of
// a jail.
func (c *checker) files(p *hypervisor.Plan) {
	for _, s := range p.StaleSockets {
		c.check("socket", spec.ValidateInside(s))
	}
	for _, f := range slices.Concat(p.StaleFiles, p.StaleDirs) {
		c.check("stale file", spec.ValidateInside(f))
	}
	for _, g := range p.Generated {
		c.check("generated file", spec.ValidateInside(g.Path))
	}
	if p.Jail != nil {
		for _, path := range slices.Concat(p.Jail.ReadOnly, p.Jail.Writable) {
			c.check("jail", spec.ValidateJailPath(path))
		}
	}
}

func (c *checker) sockets(p *hypervisor.Plan) {
	for _, control := range []*hypervisor.Control{p.Shutdown.Control, p.Readiness.Control, p.Balloon} {
		if control != nil && control.Socket != "" {
			c.check("control socket", spec.ValidateInside(control.Socket))
		}
	}
	if ssh := p.Shutdown.SSH; ssh != nil {
		c.check("shutdown key", spec.ValidateInside(ssh.Key))
		if ssh.VsockSocket != "" {
			c.check("vsock socket", spec.ValidateInside(ssh.VsockSocket))
		}
	}
	if p.Shutdown.Method == hypervisor.ShutdownGuestOverSSH && (p.Shutdown.SSH == nil || p.VsockCID == nil) {
		c.faults.Addf("shutdown", "%s requires a key and a vsock CID", p.Shutdown.Method)
	}
	if p.Console != "" {
		c.check("console", spec.ValidateInside(p.Console))
	}
	if p.Readiness.VsockSocket != "" {
		c.check("vsock socket", spec.ValidateInside(p.Readiness.VsockSocket))
	}
}
