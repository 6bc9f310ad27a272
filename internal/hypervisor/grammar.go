package hypervisor

import (
	"fmt"
	"strings"

	"microvm/internal/spec"
)

// grammar is what a hypervisor's options cannot carry in a value, where they have
// no way to write it or none that all versions have.
type grammar struct {
	// ends are the characters that end a value or begin something in it.
	ends string
	// blanks says that blanks around a value are taken off, dash that a value may
	// not begin with a dash.
	blanks, dash bool
}

// grammars are those of the hypervisors that have one of the kind: QEMU doubles
// commas, Alioth has objects for any value, Firecracker reads JSON. Sources are
// option_parser/src/lib.rs of Cloud Hypervisor, serde_keyvalue/src/key_values.rs
// of crosvm, disk/core.c, virtio/9p.c and virtio/net.c of kvmtool, and
// str_slip_to_clap of StratoVirt's machine_manager/src/config/mod.rs.
var grammars = map[string]grammar{
	"cloud-hypervisor": {ends: `,"[]`, blanks: true},
	"crosvm":           {ends: `,"'[]`},
	"kvmtool":          {ends: ","},
	"stratovirt":       {ends: ",=", dash: true},
}

// refuseCharacters refuses values that a hypervisor would cut or take for
// something else.
func refuseCharacters(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	g := grammars[s.Hypervisor]
	check := func(path, value string) { g.check(&faults, s.Hypervisor, path, value) }
	for i, v := range s.Volumes {
		check(fmt.Sprintf("volumes[%d].image", i), notAnOption(v.Image))
		if v.Serial != nil {
			check(fmt.Sprintf("volumes[%d].serial", i), *v.Serial)
		}
	}
	for i, share := range s.Shares {
		shareCharacters(s, i, share, g, &faults)
	}
	if s.StoreOnDisk != nil && *s.StoreOnDisk {
		check("storeDisk", s.StoreDisk)
	}
	if s.Hypervisor == "stratovirt" && s.Socket.Value != nil {
		check("socket", *s.Socket.Value)
	}
	if s.Graphics.Enable {
		check("graphics.socket", s.Graphics.Socket)
	}
	for i, n := range s.Interfaces {
		if s.Hypervisor == "kvmtool" && strings.Contains(n.ID, "=") {
			faults.Addf(fmt.Sprintf("interfaces[%d].id", i), "%q has \"=\", which kvmtool takes for the end of the value; rename it", n.ID)
		}
		check(fmt.Sprintf("interfaces[%d].id", i), n.ID)
	}
	return faults
}

// shareCharacters: of a virtiofs share the hypervisor sees the socket only, of a
// 9p share the source.
func shareCharacters(s *spec.Spec, i int, share spec.Share, g grammar, faults *spec.Faults) {
	at := fmt.Sprintf("shares[%d]", i)
	g.check(faults, s.Hypervisor, at+".tag", share.Tag)
	switch {
	case share.Proto == "virtiofs" && share.Socket.Value != nil:
		g.check(faults, s.Hypervisor, at+".socket", *share.Socket.Value)
	case share.Proto == "9p" && s.Hypervisor == "crosvm":
		// --shared-dir has other separators than the rest.
		if strings.Contains(share.Source, ":") {
			faults.Addf(at+".source", "%q has a colon, which crosvm takes for the end of the value\nhint: rename it, or set proto to virtiofs", share.Source)
		}
	case share.Proto == "9p":
		g.check(faults, s.Hypervisor, at+".source", share.Source)
	}
}

func (g grammar) check(faults *spec.Faults, hypervisor, path, value string) {
	switch i := strings.IndexAny(value, g.ends); {
	case i >= 0 && value[i] == ',':
		faults.Addf(path, "%q has a comma, which %s takes for the end of the value; rename it", value, hypervisor)
	case i >= 0:
		faults.Addf(path, "%q has %q, which %s takes for a sign of its own; rename it", value, value[i:i+1], hypervisor)
	case g.blanks && strings.TrimSpace(value) != value:
		faults.Addf(path, "%q begins or ends with a blank, which %s takes off; rename it", value, hypervisor)
	case g.dash && strings.HasPrefix(value, "-"):
		faults.Addf(path, "%q begins with a dash, as an option of %s does; rename it", value, hypervisor)
	}
}

// notAnOption is a relative path that does not begin with a dash.
func notAnOption(path string) string {
	if strings.HasPrefix(path, "-") {
		return "./" + path
	}
	return path
}
