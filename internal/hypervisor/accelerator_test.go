package hypervisor

import (
	"slices"
	"strings"
	"testing"
)

// TestKVMIsUsedWhereMicrovmNixUsesIt: a CPU model alone does not turn it off.
func TestKVMIsUsedWhereMicrovmNixUsesIt(t *testing.T) {
	for members, want := range map[string]struct {
		accel string
		kvm   KVM
	}{
		``:                            {"accel=kvm:tcg", KVMWanted},
		`"cpu":"max"`:                 {"accel=kvm:tcg", KVMWanted},
		`"cpu":"Haswell"`:             {"accel=kvm:tcg", KVMWanted},
		`"cpu":"host,migratable=off"`: {"accel=kvm:tcg", KVMRequired},
		`"cpu":"hostile"`:             {"accel=kvm:tcg", KVMWanted},
		`"qemu":{"machine":"q35"}`:    {"accel=kvm:tcg", KVMWanted},
		`"qemu":{"machineOpts":{}}`:   {"accel=kvm:tcg", KVMWanted},
		`"qemu":{"machineOpts":{"acpi":"on"}},"cpu":"max"`:        {"", KVMUnused},
		`"qemu":{"machineOpts":{"accel":"tcg"}}`:                  {"accel=tcg", KVMUnused},
		`"qemu":{"machineOpts":{"accel":"kvm"}}`:                  {"accel=kvm", KVMRequired},
		`"qemu":{"machineOpts":{"accel":"kvm"}},"cpu":"host"`:     {"accel=kvm", KVMRequired},
		`"qemu":{"extraArgs":["-accel","tcg"]}`:                   {"", KVMUnused},
		`"qemu":{"extraArgs":["--accel","kvm","-accel","tcg"]}`:   {"", KVMWanted},
		`"qemu":{"extraArgs":["-machine","accel=tcg"]}`:           {"accel=kvm:tcg", KVMUnused},
		`"qemu":{"extraArgs":["-M","q35,accel=kvm"]}`:             {"accel=kvm:tcg", KVMRequired},
		`"qemu":{"extraArgs":["-enable-kvm"]},"cpu":"host"`:       {"accel=kvm:tcg", KVMRequired},
		`"qemu":{"extraArgs":["-device","kvm"]}`:                  {"accel=kvm:tcg", KVMWanted},
		`"arch":"aarch64","cpu":"cortex-a53"`:                     {"accel=kvm:tcg", KVMWanted},
		`"qemu":{"machineOpts":{"accel":"kvm:tcg"}},"cpu":"host"`: {"accel=kvm:tcg", KVMRequired},
	} {
		p, err := compileFor(t, "qemu", members)
		if err != nil {
			t.Errorf("%s: %v", members, err)
			continue
		}
		machine := p.Argv[slices.Index(p.Argv, "-M")+1]
		accel := ""
		for word := range strings.SplitSeq(machine, ",") {
			if strings.HasPrefix(word, "accel=") {
				accel = word
			}
		}
		if accel != want.accel || p.KVM != want.kvm {
			t.Errorf("%s: -M %s and KVM %q, want %q and %q", members, machine, p.KVM, want.accel, want.kvm)
		}
	}
}

// TestACPUThatKVMAloneHasIsNotEmulated: model host is refused if the spec turns KVM off.
func TestACPUThatKVMAloneHasIsNotEmulated(t *testing.T) {
	for members, refused := range map[string]bool{
		`"cpu":"host"`:      false,
		`"cpu":"host,-avx"`: false,
		`"cpu":"host","qemu":{"machineOpts":{"accel":"tcg"}}`:     true,
		`"cpu":"host","qemu":{"machineOpts":{"acpi":"on"}}`:       true,
		`"cpu":"max","qemu":{"machineOpts":{"acpi":"on"}}`:        false,
		`"cpu":"host","qemu":{"machineOpts":{"accel":"kvm:tcg"}}`: false,
		`"cpu":"host","qemu":{"extraArgs":["-accel","kvm"]}`:      false,
		`"cpu":"host","qemu":{"extraArgs":["-accel","tcg"]}`:      true,
	} {
		if got := faultsOf(t, "qemu", members); slices.Contains(got, "cpu") != refused {
			t.Errorf("%s: refused %v", members, got)
		}
	}
}

// TestTheTransportIsMicrovmNixs: a guest names its network interfaces after the bus.
func TestTheTransportIsMicrovmNixs(t *testing.T) {
	const tap = `"interfaces":[{"type":"tap","id":"a","mac":"02:00:00:00:00:01"}]`
	const macvtap = `"interfaces":[{"type":"macvtap","id":"a","mac":"02:00:00:00:00:01","macvtap":{"link":"e","mode":"bridge"}}]`
	for members, want := range map[string]struct{ pcie, device, netdev string }{
		`"vcpu":1,` + tap:     {"off", "virtio-net-device", "script=no,downscript=no"},
		`"vcpu":2,` + tap:     {"off", "virtio-net-device", "queues=2"},
		`"vcpu":2,` + macvtap: {"off", "virtio-net-device", "fds="},
		`"vcpu":2,"shares":[{"tag":"s","source":"/s"}],` + tap:                {"on", "virtio-net-pci", "queues=2"},
		`"vcpu":2,"graphics":{"enable":true},` + tap:                          {"on", "virtio-net-pci", "queues=2"},
		`"vcpu":2,"devices":[{"bus":"pci","path":"0000:01:00.0"}],` + tap:     {"on", "virtio-net-pci", "queues=2"},
		`"vcpu":2,"devices":[{"bus":"usb","path":"vendorid=1"}],` + tap:       {"off", "virtio-net-device", "queues=2"},
		`"vcpu":2,"vsock":{"cid":5},"balloon":true,` + tap + `,` + volumes(9): {"off", "virtio-net-device", "queues=2"},
		`"vcpu":2,"qemu":{"machine":"q35"},` + tap:                            {"", "virtio-net-pci", "queues=2"},
	} {
		p, err := compileFor(t, "qemu", members)
		if err != nil {
			t.Errorf("%s: %v", members, err)
			continue
		}
		text := strings.Join(p.Argv, " ")
		if want.pcie != "" && !strings.Contains(text, ",pcie="+want.pcie+",") || !strings.Contains(text, " "+want.device+",") || !strings.Contains(text, want.netdev) {
			t.Errorf("%s: want pcie=%s, %s and %s, got\n%s", members, want.pcie, want.device, want.netdev, text)
		}
		if mq := strings.Contains(text, "mq=on"); mq != (want.device == "virtio-net-pci") {
			t.Errorf("%s: several queues: %t\n%s", members, mq, text)
		}
	}
}
