package hypervisor

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/spec"
)

// TestNoHintIsRefusedNext gives each hypervisor a faulty spec and follows the hint: the
// same path must not be refused again. A case has the option, what is wrong, and what is
// done for each part that a hint may have.
func TestNoHintIsRefusedNext(t *testing.T) {
	const user = `{"type":"user","id":"u","mac":"02:00:00:00:00:01"}`
	share := func(proto, more string) string {
		return `"shares":[{"tag":"t","source":"/s","proto":"` + proto + `"` + more + `}]`
	}
	volume := func(imageType string) string {
		return `"volumes":[{"image":"i","autoCreate":false,"imageType":"` + imageType + `"}]`
	}
	type step struct{ hint, then string }
	cases := []struct {
		path, wrong string
		steps       []step
	}{
		{"initialBalloonMem", `"initialBalloonMem":64`, []step{{"set balloon to true", `"initialBalloonMem":64,"balloon":true`}}},
		{"forwardPorts", `"forwardPorts":[{"host":{"port":1},"guest":{"port":1}}]`, []step{
			{"add one", `"forwardPorts":[{"host":{"port":1},"guest":{"port":1}}],"interfaces":[` + user + `]`},
		}},
		{"readiness", `"readiness":"guest"`, []step{{`readiness to "vmm"`, `"readiness":"vmm"`}, {`readiness to "none"`, `"readiness":"none"`}}},
		{"readiness", `"readiness":"guest","socket":null`, []step{{`readiness to "vmm"`, `"readiness":"vmm","socket":null`}}},
		{"readiness", `"readiness":"vmm","socket":null`, []step{{"leave socket out", `"readiness":"vmm"`}, {"set socket", `"readiness":"vmm","socket":"x.sock"`}}},
		{"readiness", `"readiness":"gest"`, []step{{"vmm", `"readiness":"vmm"`}, {"none", `"readiness":"none"`}}},
		{"readiness", `"readiness":"gest","socket":null`, []step{{"vmm", `"readiness":"vmm","socket":null`}}},
		{"balloon", `"balloon":true,"socket":null`, []step{{"leave socket out", `"balloon":true`}, {"set socket", `"balloon":true,"socket":"x.sock"`}}},
		{"socket", `"socket":"x.sock","balloon":true`, []step{{"set it to null", `"socket":null,"balloon":true`}, {"leave the field out", `"balloon":true`}}},
		{"socket", `"socket":"x.sock","readiness":"vmm"`, []step{{"set it to null", `"socket":null,"readiness":"vmm"`}}},
		{"interfaces[0].type", `"interfaces":[{"type":"tab","id":"u","mac":"02:00:00:00:00:01"}]`, []step{
			{"bridge", `"interfaces":[{"type":"bridge","bridge":"br0","id":"u","mac":"02:00:00:00:00:01"}]`}, {"user", `"interfaces":[` + user + `]`},
			{"macvtap", `"interfaces":[{"type":"macvtap","macvtap":{"link":"e","mode":"vepa"},"id":"u","mac":"02:00:00:00:00:01"}]`},
		}},
		{"interfaces[0].type", `"interfaces":[{"type":"","id":"u","mac":"02:00:00:00:00:01"}]`, []step{{"user", `"interfaces":[` + user + `]`}}},
		{"shares[0].proto", share("nfs", ""), []step{{"9p", share("9p", "")}, {"virtiofs", share("virtiofs", "")}}},
		{"shares[0].securityModel", share("9p", `,"securityModel":"maped"`), []step{
			{"mapped", share("9p", `,"securityModel":"mapped"`)}, {"mapped-file", share("9p", `,"securityModel":"mapped-file"`)}, {"none", share("9p", `,"securityModel":"none"`)},
		}},
		{"devices[0].bus", `"devices":[{"bus":"pcie","path":"0000:01:00.0"}]`, []step{{"pci", passthrough}, {"usb", usb}}},
		{"volumes[0].imageType", volume("vmdk"), []step{{"qcow2", volume("qcow2")}, {"vhd", volume("vhd")}, {"vhdx", volume("vhdx")}, {"raw", volume("raw")}}},
		{"graphics.backend", `"graphics":{"enable":true,"backend":"sdl"}`, []step{{"headless", `"graphics":{"enable":true,"backend":"headless"}`}}},
		{"hotplugMem", `"hotplugMem":128`, []step{
			{"set qemu.machine to q35", `"hotplugMem":128,"qemu":{"machine":"q35"}`}, {"set qemu.machine to virt", `"hotplugMem":128,"qemu":{"machine":"virt"}`},
		}},
		{"hotplugMem", `"hotplugMem":65,"hotpluggedMem":0,"qemu":{"machine":"q35"}`, []step{
			{"use 66", `"hotplugMem":66,"hotpluggedMem":0,"qemu":{"machine":"q35"}`}, {"use 128", `"hotplugMem":128,"hotpluggedMem":0,"qemu":{"machine":"q35"}`},
		}},
		{"hotpluggedMem", `"hotplugMem":128,"hotpluggedMem":127,"qemu":{"machine":"q35"}`, []step{{"use 126", `"hotplugMem":128,"hotpluggedMem":126,"qemu":{"machine":"q35"}`}}},
		{"mem", `"hugepageMem":true,"mem":2047`, []step{{"use 2048", `"hugepageMem":true,"mem":2048`}}},
		{"qemu.pcieRootPorts", `"qemu":{"pcieRootPorts":[{"id":"p"}]}`, []step{{"set qemu.machine to q35", `"qemu":{"machine":"q35","pcieRootPorts":[{"id":"p"}]}`}}},
		{"qemu.machine", volumes(31), []step{{"qemu.pcieRootPorts", volumes(3) + `,"qemu":{"pcieRootPorts":[{"id":"p"}]}`}}},
		{"cpu", `"cpu":"host","qemu":{"machineOpts":{"accel":"tcg"}}`, []step{
			{"leave cpu out", `"qemu":{"machineOpts":{"accel":"tcg"}}`}, {`set it to "max"`, `"cpu":"max","qemu":{"machineOpts":{"accel":"tcg"}}`},
			{`to "kvm:tcg"`, `"cpu":"host","qemu":{"machineOpts":{"accel":"kvm:tcg"}}`},
		}},
		{"qemu.machineOpts", `"qemu":{"machineOpts":{}},` + nine, []step{{`add "pcie": "on"`, `"qemu":{"machineOpts":{"pcie":"on"}},` + nine}, {"leave machineOpts out", nine}}},
	}
	file, followed := filepath.Join(t.TempDir(), "spec.json"), 0
	refuse := func(hypervisor, members string) spec.Faults {
		arch := "x86_64"
		if strings.Contains(members, `"virt"`) {
			arch = "aarch64"
		}
		_, err := parseWithRules(t, file, fmt.Sprintf(`{"name":"web","arch":%q,"kernel":"/k","initrdPath":"/i","hypervisor":%q,%s}`, arch, hypervisor, members))
		return faultsIn(err)
	}
	for hypervisor := range backends {
		for _, c := range cases {
			for _, f := range refuse(hypervisor, c.wrong) {
				if f.Path != c.path {
					continue
				}
				for _, s := range c.steps {
					if !suggests(f.Remedy, s.hint) {
						continue
					}
					followed++
					next := refuse(hypervisor, s.then)
					if slices.ContainsFunc(next, func(n spec.Fault) bool { return n.Path == f.Path }) {
						t.Errorf("%s: %v\nhint: %s\nfollowed by %q, and then\n%v", hypervisor, f, f.Remedy, s.hint, next)
					}
				}
			}
		}
	}
	if followed < 60 {
		t.Errorf("only %d hints were followed", followed)
	}
}

// TestABalloonIsRecommendedWhereItCanBeSet by the command that sets it.
func TestABalloonIsRecommendedWhereItCanBeSet(t *testing.T) {
	for hypervisor := range backends {
		p, err := compileFor(t, hypervisor, `"balloon":true`)
		can := err == nil && p.Balloon != nil
		if why := exit.Text(WhyNoBalloon(hypervisor)); strings.Contains(why, "\nhint: set balloon to true") != can {
			t.Errorf("a VM of %s: %s; with balloon it has one that can be set: %t", hypervisor, why, can)
		}
	}
}

// suggests reports whether a hint contains part or, if it lists the allowed values, whether
// part is one of them.
func suggests(hint, part string) bool {
	list, found := strings.CutPrefix(hint, "use one of ")
	if !found {
		return strings.Contains(part, " ") && strings.Contains(hint, part)
	}
	return slices.Contains(strings.Split(list, ", "), part)
}

// faultsIn returns the faults that ParseFile wraps.
func faultsIn(err error) spec.Faults {
	var faults spec.Faults
	errors.As(err, &faults)
	return faults
}
