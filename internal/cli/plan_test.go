package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

func TestWhatIsShownOfAPlanIsWhatIsComparedButForReasons(t *testing.T) {
	p := &hypervisor.Plan{
		Name: "web", Hypervisor: "qemu", Console: "console.sock", Notes: []string{"slow"},
		Readiness: hypervisor.Readiness{Mode: "guest", Why: "it reports"},
		Shutdown:  hypervisor.Shutdown{Method: "power-button", Why: "it has one"},
		Volumes:   []hypervisor.Volume{{Image: "var.img", SizeMiB: 64, FSType: "ext4"}},
		Taps:      []hypervisor.Tap{{ID: "vm-web"}},
		Macvtaps:  []hypervisor.Macvtap{{ID: "vm-mac", Link: "eth0", Mode: "bridge"}},
		Shares:    []hypervisor.Share{{Tag: "store", Source: "/srv"}},
		PCI:       []hypervisor.PCI{{Address: "0000:01:00.0"}},
		Generated: []hypervisor.GeneratedFile{{Path: "/x.json", Content: "{\n"}},
		Argv:      []string{"qemu", "-m", "512M", "-nographic"}, Landlock: []string{"--landlock"},
	}
	var out bytes.Buffer
	printPlan(&Command{Stdout: &out}, p)
	const shown = `name         web
hypervisor   qemu
ready when   guest: it reports
shut down by power-button: it has one
volume       var.img, 64 MiB, ext4
tap          vm-web
macvtap      vm-mac on eth0, bridge
share        store: /srv
device       0000:01:00.0
console      console.sock
note         slow
command line
  qemu
  -m
  512M
  -nographic
  --landlock
`
	if out.String() != shown {
		t.Errorf("shown\n%s\nwant\n%s", &out, shown)
	}
	want := strings.Split("ready when guest|shut down by power-button|volume var.img, 64 MiB, ext4|tap vm-web|macvtap vm-mac on eth0, bridge|share store: /srv|"+
		"device 0000:01:00.0|/x.json: {|qemu|-m 512M|-nographic|--landlock", "|")
	if got := planLines(p); !slices.Equal(got, want) {
		t.Errorf("compared\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
