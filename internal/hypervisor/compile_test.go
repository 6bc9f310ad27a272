package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/spec"
)

// compileText compiles a document whose first members are given.
func compileText(t *testing.T, members string) (*Plan, error) {
	t.Helper()
	if members != "" {
		members = "," + members
	}
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/boot/vmlinuz"` + members + `}`))
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	return (&Builder{Version: func(string) (int, int, error) { return 10, 0, nil }}).Compile(s)
}

// qemuRefusals are what QEMU does not support.
func qemuRefusals() map[string]refusal {
	root := `"qemu":{"machine":"q35"},`
	return map[string]refusal{
		"a balloon inflated at the start":    {`"balloon":true,"initialBalloonMem":64`, "initialBalloonMem", "supported by: cloud-hypervisor, firecracker"},
		"virtio-mem on machine microvm":      {`"hotplugMem":512`, "hotplugMem", "set qemu.machine to q35"},
		"root ports on machine microvm":      {`"qemu":{"pcieRootPorts":[{"id":"p1"}]}`, "qemu.pcieRootPorts", "set qemu.machine to q35"},
		"machine microvm on aarch64":         {`"qemu":{"machine":"microvm"},"arch":"aarch64"`, "qemu.machine", "set qemu.machine to virt"},
		"a balloon that cannot be set":       {`"balloon":true,"socket":null`, "balloon", "leave socket out"},
		"an odd size to plug":                {root + `"hotplugMem":513`, "hotplugMem", "must be a multiple of 2 for QEMU, not 513"},
		"an odd size plugged":                {root + `"hotplugMem":512,"hotpluggedMem":255`, "hotpluggedMem", "must be a multiple of 2 for virtio-mem, not 255"},
		"half a huge page":                   {`"mem":511,"hugepageMem":true`, "mem", "use 512"},
		"a credential name too long":         {`"credentialFiles":{"a-name-of-more-than-28-bytes-":"/x"}`, "credentialFiles.a-name-of-more-than-28-bytes-", "must be at most 28 bytes"},
		"more devices than slots":            {root + volumes(31), "qemu.machine", "supports 30, and the spec has 33"},
		"readiness by a guest without vsock": {`"readiness":"guest"`, "readiness", "requires vsock.cid"},
		"readiness by a socket that is off":  {`"readiness":"vmm","socket":null`, "readiness", "leave socket out"},
	}
}

func wantFault(t *testing.T, err error, path, want string) {
	t.Helper()
	var faults spec.Faults
	if !errors.As(err, &faults) {
		t.Fatalf("got %v, want faults", err)
	}
	for _, f := range faults {
		if f.Path == path && (strings.Contains(f.Message, want) || strings.Contains(f.Remedy, want)) {
			return
		}
	}
	t.Errorf("got\n%s\nwant %s: … %s …", exit.Text(err), path, want)
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := compileText(t, `"hotplugMem":513,"balloon":true,"initialBalloonMem":3,"socket":null`)
	for _, path := range []string{"initialBalloonMem", "hotplugMem", "balloon"} {
		wantFault(t, err, path, "")
	}
	_, err = compileText(t, `"hotplugMem":513,"balloon":true,"socket":null`)
	for _, path := range []string{"hotplugMem", "balloon"} {
		wantFault(t, err, path, "")
	}
}

// TestEachCapabilityIsAskedFor compiles a spec that uses everything for each hypervisor:
// exactly what the table lacks is refused.
func TestEachCapabilityIsAskedFor(t *testing.T) {
	table, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/k","cpu":"max","hugepageMem":true,"hotplugMem":64,
		"balloon":true,"initialBalloonMem":64,"graphics":{"enable":true},"credentialFiles":{"a":"/a"},"readiness":"guest","vsock":{"cid":3},
		"interfaces":[{"type":"user","id":"a","mac":"02:00:00:00:00:01"},{"type":"tap","id":"b","mac":"02:00:00:00:00:02","tap":{"vhost":true}},
			{"type":"macvtap","id":"c","mac":"02:00:00:00:00:03","macvtap":{"link":"eth0","mode":"bridge"}},
			{"type":"bridge","id":"d","mac":"02:00:00:00:00:04","bridge":"br0"}],
		"forwardPorts":[{"host":{"port":1},"guest":{"port":1}}],
		"shares":[{"tag":"a","source":"/a","readOnly":true},{"tag":"b","source":"/b","proto":"virtiofs"}],
		"volumes":[{"image":"a","size":1,"serial":"a","direct":true,"shared":true},{"image":"b","autoCreate":false,"imageType":"qcow2"},
			{"image":"c","autoCreate":false,"imageType":"vhd"},{"image":"d","autoCreate":false,"imageType":"vhdx"}],
		"devices":[{"bus":"pci","path":"0000:01:00.0"},{"bus":"usb","path":"vendorid=1"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range table {
		s.Hypervisor = name
		var want []string
		deny := func(has bool, path string) {
			if !has {
				want = append(want, path)
			}
		}
		for i, kind := range []string{"user", "tap", "macvtap", "bridge"} {
			deny(slices.Contains(c.Interfaces, kind), fmt.Sprintf("interfaces[%d].type", i))
		}
		deny(c.TapVhost, "interfaces[1].tap.vhost")
		deny(slices.Contains(c.Shares, "9p"), "shares[0].proto")
		deny(c.ReadOnly9p, "shares[0].readOnly")
		deny(slices.Contains(c.Shares, "virtiofs"), "shares[1].proto")
		deny(slices.Contains(c.Devices, "pci"), "devices[0].bus")
		deny(slices.Contains(c.Devices, "usb"), "devices[1].bus")
		for i, kind := range []string{"raw", "qcow2", "vhd", "vhdx"} {
			deny(slices.Contains(c.ImageTypes, kind), fmt.Sprintf("volumes[%d].imageType", i))
		}
		deny(c.VolumeSerial, "volumes[0].serial")
		deny(c.VolumeDirect, "volumes[0].direct")
		deny(c.VolumeShared, "volumes[0].shared")
		for path, has := range map[string]bool{
			"cpu": c.CPU, "hugepageMem": c.HugepageMem, "hotplugMem": c.HotplugMem, "balloon": c.Balloon,
			"initialBalloonMem": c.InitialBalloonMem, "forwardPorts": c.ForwardPorts, "graphics.enable": c.Graphics,
			"credentialFiles": c.CredentialFiles, "readiness": c.GuestReadiness,
		} {
			deny(has, path)
		}
		faults, err := unsupported(s)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range faults {
			got = append(got, f.Path)
			if !strings.HasPrefix(f.Message, displayName(name)+" does not support ") || !strings.HasPrefix(f.Remedy, "supported by: ") {
				t.Errorf("%s: %s\nhint: %s", name, f.Message, f.Remedy)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("%s refuses %v, want %v as in the table", name, got, want)
		}
	}
}

// TestTheTableOfCapabilitiesIsWhole: each row has each key, so that Nix, which
// reads the same file, finds it.
func TestTheTableOfCapabilitiesIsWhole(t *testing.T) {
	var rows map[string]map[string]any
	if err := json.Unmarshal(capabilitiesJSON, &rows); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range reflect.TypeFor[Capabilities]().NumField() {
		keys = append(keys, reflect.TypeFor[Capabilities]().Field(i).Tag.Get("json"))
	}
	slices.Sort(keys)
	want := []string{"alioth", "cloud-hypervisor", "crosvm", "firecracker", "kvmtool", "qemu", "stratovirt"}
	if got := slices.Sorted(maps.Keys(rows)); !slices.Equal(got, want) {
		t.Errorf("rows are %v, want %v", got, want)
	}
	for name, row := range rows {
		if got := slices.Sorted(maps.Keys(row)); !slices.Equal(got, keys) {
			t.Errorf("%s has the keys %v, want %v", name, got, keys)
		}
	}
}

// TestTheTableSaysHowAnInterfaceIsOpened: a macvtap by descriptors on the command line or
// by the hypervisor itself, and a tap with one queue per CPU or with one.
func TestTheTableSaysHowAnInterfaceIsOpened(t *testing.T) {
	table, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range table {
		for _, arch := range []string{"x86_64", "aarch64"} {
			p, err := compileFor(t, name, `"arch":"`+arch+`","vcpu":2,`+interfaces(1, "tap"))
			if err != nil {
				t.Fatal(err)
			}
			many := slices.Contains(c.TapMultiQueue, arch)
			asks := slices.ContainsFunc(p.Argv, func(a string) bool {
				return strings.Contains(a, "queues=2") || strings.Contains(a, "num_queues=4") || strings.Contains(a, "qp=2") || strings.Contains(a, "vq-pairs=2")
			})
			if p.Taps[0].MultiQueue != many || asks != many {
				t.Errorf("%s on %s: the tap has several queues: %t, the command line: %t, want %t as in the table: %q", name, arch, p.Taps[0].MultiQueue, asks, many, p.Argv)
			}
		}
		if !slices.Contains(c.Interfaces, "macvtap") {
			if c.MacvtapByFD {
				t.Errorf("%s has no macvtap, and opens it by descriptors", name)
			}
			continue
		}
		p, err := compileFor(t, name, macvtap)
		if err != nil {
			t.Fatal(err)
		}
		argv := strings.Join(p.Argv, " ")
		if strings.Contains(argv, MacvtapFD("n", 0)) != c.MacvtapByFD || (p.Macvtaps[0].Queues > 0) != c.MacvtapByFD || strings.Contains(argv, MacvtapDevice("n")) == c.MacvtapByFD {
			t.Errorf("%s: macvtap by descriptors is %t in the table; %d queues and %s", name, c.MacvtapByFD, p.Macvtaps[0].Queues, argv)
		}
	}
}

func TestUnsetReadinessIsChosenAndExplained(t *testing.T) {
	tests := map[string]struct{ members, mode, why string }{
		"a CID":              {`"vsock":{"cid":3}`, ReadyGuest, "vsock.cid is set"},
		"a socket":           {``, ReadyVMM, "no vsock.cid"},
		"a CID, but asked":   {`"vsock":{"cid":3},"readiness":"vmm"`, ReadyVMM, "set in the spec"},
		"neither":            {`"socket":null`, ReadyNone, "neither"},
		"a CID alone":        {`"socket":null,"vsock":{"cid":3}`, ReadyGuest, "vsock.cid is set"},
		"nothing, and asked": {`"readiness":"none"`, ReadyNone, "set in the spec"},
	}
	for name, test := range tests {
		p, err := compileText(t, test.members)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Readiness.Mode != test.mode || !strings.Contains(p.Readiness.Why, test.why) {
			t.Errorf("%s: ready by %s because %q; want %s because … %s …", name, p.Readiness.Mode, p.Readiness.Why, test.mode, test.why)
		}
		tells := slices.ContainsFunc(p.Argv, func(a string) bool { return strings.Contains(a, "vmm.notify_socket") })
		if tells != (test.mode == ReadyGuest) {
			t.Errorf("%s: ready by %s, and the guest is told where to report: %t", name, p.Readiness.Mode, tells)
		}
	}
}

func TestExactly2048MiBIsWarnedOf(t *testing.T) {
	for mem, want := range map[int]bool{2047: false, 2048: true, 2049: false} {
		p, err := compileText(t, fmt.Sprintf(`"mem":%d`, mem))
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasPrefix(n, "warning: mem:") })
		if warned != want {
			t.Errorf("%d MiB: warned %t, want %t", mem, warned, want)
		}
	}
}

func TestAnUnknownVersionIsTakenForTheOldest(t *testing.T) {
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/boot/vmlinuz"}`))
	if err != nil {
		t.Fatal(err)
	}
	oldest := &Builder{Version: func(string) (int, int, error) { return 7, 2, nil }}
	want, err := oldest.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	unknown := &Builder{Version: func(string) (int, int, error) { return 0, 0, errors.New("not installed") }}
	for name, b := range map[string]*Builder{"cannot be asked": unknown, "is not asked": {}} {
		got, err := b.Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Argv, want.Argv) {
			t.Errorf("a QEMU that %s gets %q", name, got.Argv)
		}
	}
}
