package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// TestWhatTwoVMsCannotBothHave checks each pair from both sides.
func TestWhatTwoVMsCannotBothHave(t *testing.T) {
	host := statedir.Host{StateDir: t.TempDir()}
	a, b := statedir.VM{Host: host, Name: "a"}, statedir.VM{Host: host, Name: "b"}
	dir := t.TempDir()
	image, link, copied := filepath.Join(dir, "disk.img"), filepath.Join(dir, "link.img"), filepath.Join(dir, "hard.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(image, copied); err != nil {
		t.Fatal(err)
	}
	volume := func(path string, set ...func(*hypervisor.Volume)) hypervisor.Plan {
		v := hypervisor.Volume{Image: path}
		for _, s := range set {
			s(&v)
		}
		return hypervisor.Plan{Volumes: []hypervisor.Volume{v}}
	}
	readOnly := func(v *hypervisor.Volume) { v.ReadOnly = true }
	shared := func(v *hypervisor.Volume) { v.Shared = true }
	port := func(proto, address string, n int) hypervisor.Plan {
		return hypervisor.Plan{HostPorts: []hypervisor.HostPort{{Proto: proto, Address: address, Port: n}}}
	}
	net := func(kind, id, mac string) hypervisor.Plan {
		p := hypervisor.Plan{Interfaces: []hypervisor.Interface{{Type: kind, ID: id, MAC: mac}}}
		if kind == "tap" {
			p.Taps = []hypervisor.Tap{{ID: id}}
		}
		return p
	}
	cid := func(n int64) hypervisor.Plan { return hypervisor.Plan{VsockCID: &n} }
	for name, c := range map[string]struct {
		one, other hypervisor.Plan
		want       string
	}{
		"one path":                         {volume("/srv/x.img"), volume("/srv/../srv/x.img"), "image /srv/x.img"},
		"a relative path":                  {volume("x.img"), volume(filepath.Join(a.Dir(), "x.img")), "image "},
		"a link":                           {volume(image), volume(link), "image "},
		"a second name":                    {volume(copied), volume(image), "image "},
		"a reader and a writer":            {volume(image, readOnly), volume(image), "image "},
		"one that shares, and one not":     {volume(image, shared), volume(image), "image "},
		"two that read":                    {volume(image, readOnly), volume(image, readOnly), ""},
		"two that share":                   {volume(image, shared), volume(image, shared), ""},
		"a reader of what is shared":       {volume(image, shared, readOnly), volume(image, shared), ""},
		"images of the same relative path": {volume("x.img"), volume("x.img"), ""},
		"a port":                           {port("tcp", "", 8080), port("tcp", "", 8080), "port 8080/tcp"},
		"a port of one address":            {port("tcp", "127.0.0.1", 8080), port("tcp", "0.0.0.0", 8080), "port 8080/tcp"},
		"a port of two addresses":          {port("tcp", "127.0.0.1", 8080), port("tcp", "192.0.2.1", 8080), ""},
		"a port of two protocols":          {port("tcp", "", 8080), port("udp", "", 8080), ""},
		"an interface":                     {net("tap", "vm-x", "02:00:00:00:00:01"), net("tap", "vm-x", "02:00:00:00:00:02"), "interface vm-x"},
		"an address":                       {net("tap", "vm-x", "02:00:00:00:00:01"), net("macvtap", "vm-y", "02:00:00:00:00:01"), "address 02:00:00:00:00:01"},
		"an address of user networks":      {net("user", "", "02:00:00:00:00:01"), net("tap", "vm-y", "02:00:00:00:00:01"), ""},
		"a device":                         {hypervisor.Plan{PCI: []hypervisor.PCI{{Address: "0000:01:00.0"}}}, hypervisor.Plan{PCI: []hypervisor.PCI{{Address: "0000:01:00.0"}}}, "device 0000:01:00.0"},
		"a USB device":                     {hypervisor.Plan{USB: []string{"vendorid=1"}}, hypervisor.Plan{USB: []string{"vendorid=1"}}, "USB device vendorid=1"},
		"a CID":                            {cid(7), cid(7), "CID 7"},
		"two CIDs":                         {cid(7), cid(8), ""},
		"a socket":                         {hypervisor.Plan{StaleSockets: []string{"/run/x.sock"}}, hypervisor.Plan{Console: "/run/x.sock"}, "socket /run/x.sock"},
		"sockets of their own":             {hypervisor.Plan{StaleSockets: []string{"x.sock"}}, hypervisor.Plan{StaleSockets: []string{"x.sock"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for side, pair := range [][2][]claim{{claims(a, &c.one), claims(b, &c.other)}, {claims(b, &c.other), claims(a, &c.one)}} {
				var got []string
				clashes(pair[0], pair[1], func(m, _ claim) { got = append(got, m.what) })
				if c.want == "" && len(got) != 0 || c.want != "" && !slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, strings.TrimSpace(c.want)) }) {
					t.Errorf("side %d: found %q, want %q", side, got, c.want)
				}
			}
		})
	}
}
