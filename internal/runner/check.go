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

// checker collects what is wrong with a plan that was read.
type checker struct {
	faults spec.Faults
	seen   map[string]bool
}

// validate checks every name that a root helper or the launcher acts on, and
// reports all faults at once.
func validate(p *hypervisor.Plan) error {
	c := &checker{seen: map[string]bool{}}
	if !p.Foreign {
		c.check("name", spec.ValidateVMName(p.Name))
	}
	// It is printed, and must not hold anything that a terminal obeys.
	c.check("hypervisor", spec.ValidateWord("hypervisor", p.Hypervisor))
	if p.System != "" && (!filepath.IsAbs(p.System) || strings.ContainsAny(p.System, "\x00\n")) {
		c.faults.Addf("system", "%q is not an absolute path", p.System)
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
		c.faults.Addf("vsock-cid", "%d is reserved or out of range; it is a number from 3 to 4294967294", *p.VsockCID)
	}
	return c.faults.Err()
}

// check adds a fault where there is an error.
func (c *checker) check(what string, err error) {
	if err != nil {
		c.faults.Addf(what, "%v", err)
	}
}

// once adds a fault where a name of that kind was there before.
func (c *checker) once(what, name string) {
	if c.seen[what+" "+name] {
		c.faults.Addf(what, "%q is there twice; leave one out", name)
	}
	c.seen[what+" "+name] = true
}

func (c *checker) network(p *hypervisor.Plan) {
	for _, n := range p.Interfaces {
		if !slices.Contains(interfaceTypes, n.Type) {
			c.faults.Addf("interface", "unknown type %q; known are %s", n.Type, strings.Join(interfaceTypes, ", "))
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
			c.faults.Addf("macvtap "+m.ID, "mode %q is not possible; it is one of %s", m.Mode, strings.Join(macvtapModes, ", "))
		}
		if m.Queues < 0 || m.Queues > 256 {
			c.faults.Addf("macvtap "+m.ID, "%d queues are not possible; a macvtap has 1 to 256", m.Queues)
		}
	}
}

func (c *checker) shares(p *hypervisor.Plan) {
	for _, s := range p.Shares {
		c.check("share", spec.ValidateTag(s.Tag))
		c.once("share", s.Tag)
		// Where a whole path leads is looked at by those who know the VM's directory.
		if !p.Foreign || !filepath.IsAbs(s.Socket) {
			c.check("share "+s.Tag+": socket", spec.ValidateInside(s.Socket))
		}
		c.once("socket", s.Socket)
		if s.Virtiofsd != "" && !filepath.IsAbs(s.Virtiofsd) {
			c.faults.Addf("share "+s.Tag, "virtiofsd %q is not an absolute path; name the program from / on", s.Virtiofsd)
		}
		if s.Source == "" || strings.ContainsAny(s.Source, "\x00\n") {
			c.faults.Addf("share "+s.Tag, "source %q is not a path; name the directory to share", s.Source)
		}
	}
}

// files checks what is removed and made in the VM's directory, and what a jail has.
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
		c.faults.Addf("shutdown", "%s needs a key and a vsock CID", p.Shutdown.Method)
	}
	if p.Console != "" {
		c.check("console", spec.ValidateInside(p.Console))
	}
	if p.Readiness.VsockSocket != "" {
		c.check("vsock socket", spec.ValidateInside(p.Readiness.VsockSocket))
	}
}
