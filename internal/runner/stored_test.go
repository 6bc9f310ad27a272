package runner

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"microvm/internal/hypervisor"
)

// TestPlansOfEveryVersionAreRead: packages of earlier versions start, without what their
// plans do not contain.
func TestPlansOfEveryVersionAreRead(t *testing.T) {
	const head = `{"version": 1, "name": "web", "hypervisor": "qemu", "arch": "x86_64", "argv": ["qemu"],
		"taps": [{"id": "vm-a"}], "macvtaps": [{"id": "mv-a", "mac": "02:00:00:00:00:0A", "link": "eth0", "mode": "bridge", "queues": 1}],
		"shutdown": {"method": "none"}, "readiness": {"mode": "none"}`
	tap := hypervisor.Interface{Type: "tap", ID: "vm-a", MAC: "02:00:00:00:00:01"}
	bridge := func(mac, name string) hypervisor.Interface {
		return hypervisor.Interface{Type: "bridge", MAC: "02:00:00:00:00:" + mac, Bridge: name}
	}
	const networks = `, "networks": [{"type": "tap", "id": "vm-a", "mac": "02:00:00:00:00:01"}`
	const more = `, {"type": "bridge", "mac": "02:00:00:00:00:02"}, {"type": "bridge", "mac": "02:00:00:00:00:03"}]`
	tests := map[string]struct {
		fields string
		want   []hypervisor.Interface
	}{
		"interfaces": {`, "interfaces": [{"type": "bridge", "mac": "02:00:00:00:00:02", "bridge": "br0"}]`, []hypervisor.Interface{bridge("02", "br0")}},
		"networks and two bridges": {networks + more + `, "bridges": ["br0", "br1"]`,
			[]hypervisor.Interface{tap, bridge("02", "br0"), bridge("03", "br1")}},
		"networks and one bridge": {networks + more + `, "bridges": ["br0"]`, []hypervisor.Interface{tap, bridge("02", "br0"), bridge("03", "br0")}},
		"networks and no bridges": {networks + "]", []hypervisor.Interface{tap}},
		"neither":                 {"", []hypervisor.Interface{{Type: "tap", ID: "vm-a"}, {Type: "macvtap", ID: "mv-a", MAC: "02:00:00:00:00:0a"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			plan, err := decodePlan([]byte(head + tt.fields + "}"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plan.Interfaces); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
			if plan.HugePagesMiB != 0 || plan.System != "" {
				t.Errorf("huge pages %d, system %q", plan.HugePagesMiB, plan.System)
			}
		})
	}
}

func TestInterfacesOfAPlanAreChecked(t *testing.T) {
	const head = `{"version": 1, "name": "web", "hypervisor": "qemu", "arch": "x86_64", "argv": ["qemu"],
		"shutdown": {"method": "none"}, "readiness": {"mode": "none"}, `
	for field, want := range map[string]string{
		`"interfaces": [{"type": "wifi"}]`:                     `invalid type "wifi"`,
		`"interfaces": [{"type": "tap", "id": "a/b"}]`:         `"a/b": must not contain '/'`,
		`"interfaces": [{"type": "user", "mac": "02:00"}]`:     "invalid MAC address",
		`"interfaces": [{"type": "bridge", "bridge": "../x"}]`: `"../x": must not contain '/'`,
		`"system": "nixos"`:                                    `invalid path "nixos": must be absolute`,
	} {
		if _, err := decodePlan([]byte(head + field + "}")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", field, err, want)
		}
	}
}

var (
	macAddress = regexp.MustCompile(`(?i)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	bridged    = regexp.MustCompile(`^bridge,id=[^,]+,br=([^,]+)`)
	hugetlb    = regexp.MustCompile(`^(?:.*,)?size=([0-9]+)M,.*(?:hugetlb|hugepages)=on`)
)

// TestThePlanSaysWhatTheCommandLineSays: for every spec of testdata, the plan's interfaces
// and huge pages are those on the hypervisor's command line.
func TestThePlanSaysWhatTheCommandLineSays(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range specNames(t) {
		plan, err := withQEMU(10, 0).Compile(readSpec(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		macs, have, bridges, huge := map[string]bool{}, map[string]bool{}, []string(nil), 0
		texts := slices.Clone(plan.Argv)
		for _, g := range plan.Generated {
			texts = append(texts, g.Content)
		}
		for _, text := range texts {
			for _, mac := range macAddress.FindAllString(text, -1) {
				macs[strings.ToLower(mac)] = true
			}
			if m := bridged.FindStringSubmatch(text); m != nil && !slices.Contains(bridges, m[1]) {
				bridges = append(bridges, m[1])
			}
			if m := hugetlb.FindStringSubmatch(text); m != nil {
				n, _ := strconv.Atoi(m[1])
				huge += n
			}
		}
		for _, n := range plan.Interfaces {
			have[n.MAC] = true
			seen[plan.Hypervisor+" "+n.Type] = true
		}
		if !maps.Equal(macs, have) {
			t.Errorf("%s: the command line has the addresses %v, the plan %v", name, macs, have)
		}
		if !slices.Equal(bridges, plan.Bridges()) {
			t.Errorf("%s: the command line has the bridges %v, the plan %v", name, bridges, plan.Bridges())
		}
		if huge != plan.HugePagesMiB {
			t.Errorf("%s: the command line takes %d MiB of huge pages, the plan %d", name, huge, plan.HugePagesMiB)
		}
		if huge > 0 {
			seen[plan.Hypervisor+" huge pages"] = true
		}
	}
	for _, want := range []string{"qemu user", "qemu tap", "qemu macvtap", "qemu bridge", "qemu huge pages", "cloud-hypervisor tap", "cloud-hypervisor macvtap",
		"cloud-hypervisor huge pages", "firecracker tap", "crosvm tap", "kvmtool tap", "stratovirt tap", "alioth tap"} {
		if !seen[want] {
			t.Errorf("no spec of testdata has %s", want)
		}
	}
}
