package hypervisor

import (
	"fmt"
	"strings"

	"microvm/internal/spec"
)

// grammar describes what the values of a hypervisor's options cannot contain, as there is
// no way to escape it, or none that all versions have.
type grammar struct {
	// ends are the characters that end a value or have another meaning in it.
	ends string
	// blanks means that spaces around a value are removed; dash means that a value must
	// not begin with a dash.
	blanks, dash bool
}

// grammars are those of the hypervisors with such limits. The others have none: in QEMU
// commas are doubled, Alioth has objects for any value, and Firecracker reads JSON. See
// option_parser/src/lib.rs of Cloud Hypervisor, serde_keyvalue/src/key_values.rs of
// crosvm, disk/core.c, virtio/9p.c and virtio/net.c of kvmtool, and str_slip_to_clap in
// machine_manager/src/config/mod.rs of StratoVirt.
var grammars = map[string]grammar{
	"cloud-hypervisor": {ends: `,"[]`, blanks: true},
	"crosvm":           {ends: `,"'[]`},
	"kvmtool":          {ends: ","},
	"stratovirt":       {ends: ",=", dash: true},
}

// refuseCharacters refuses values that a hypervisor would truncate or misread.
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
			faults.Addf(fmt.Sprintf("interfaces[%d].id", i), "invalid interface name %q: must not contain \"=\" for kvmtool", n.ID)
		}
		check(fmt.Sprintf("interfaces[%d].id", i), n.ID)
	}
	return faults
}

// shareCharacters checks the values of a share that the hypervisor gets: the tag, and the
// socket of a virtiofs share or the source of a 9p share.
func shareCharacters(s *spec.Spec, i int, share spec.Share, g grammar, faults *spec.Faults) {
	at := fmt.Sprintf("shares[%d]", i)
	g.check(faults, s.Hypervisor, at+".tag", share.Tag)
	switch {
	case share.Proto == "virtiofs" && share.Socket.Value != nil:
		g.check(faults, s.Hypervisor, at+".socket", *share.Socket.Value)
	case share.Proto == "9p" && s.Hypervisor == "crosvm":
		// The separator of --shared-dir is the colon.
		if strings.Contains(share.Source, ":") {
			faults.Addf(at+".source", "invalid path %q: must not contain a colon for crosvm", share.Source).
				Hintf("rename it, or set proto to virtiofs")
		}
	case share.Proto == "9p":
		g.check(faults, s.Hypervisor, at+".source", share.Source)
	}
}

func (g grammar) check(faults *spec.Faults, hypervisor, path, value string) {
	name := displayName(hypervisor)
	switch i := strings.IndexAny(value, g.ends); {
	case i >= 0 && value[i] == ',':
		faults.Addf(path, "%q must not contain a comma for %s", value, name)
	case i >= 0:
		faults.Addf(path, "%q must not contain %q for %s", value, value[i:i+1], name)
	case g.blanks && strings.TrimSpace(value) != value:
		faults.Addf(path, "%q must not begin or end with a space for %s", value, name)
	case g.dash && strings.HasPrefix(value, "-"):
		faults.Addf(path, "%q must not begin with a dash for %s", value, name)
	}
}

// notAnOption returns a path that does not begin with a dash, so that it is not parsed as
// an option.
func notAnOption(path string) string {
	if strings.HasPrefix(path, "-") {
		return "./" + path
	}
	return path
}
