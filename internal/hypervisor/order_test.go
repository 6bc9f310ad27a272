package hypervisor

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// deviceOrders are the devices of each hypervisor in the order of microvm.nix, each by a
// part of an argument; ours come last. Cloud Hypervisor, Firecracker, kvmtool and Alioth
// assign slots by kind, so only the order within a kind counts.
var deviceOrders = map[string]struct {
	members string
	want    []string
}{
	"qemu": {
		`"qemu":{"machine":"q35","pcieRootPorts":[{"id":"p1"}],"extraArgs":["-device","edu"]},"storeOnDisk":true,"storeDisk":"/store","balloon":true,"hotplugMem":512,
			"vsock":{"cid":5},"graphics":{"enable":true},"volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"shares":[{"tag":"s","source":"/s"},{"tag":"f","source":"/f","proto":"virtiofs"}],
			"devices":[{"bus":"usb","path":"vendorid=1"},{"bus":"pci","path":"0000:01:00.0"},{"bus":"pci","path":"0000:01:00.1"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"user","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{"virtio-rng-pci", "pcie-root-port", "host=0000:01:00.0", "host=0000:01:00.1", "drive=store", "virtio-vga-gl", "qemu-xhci", "usb-tablet", "usb-kbd",
			"virtio-balloon-pci", "virtio-mem-pci", "drive=volume0", "drive=volume1", "mount_tag=s", "vhost-user-fs-pci", "mac=02:00:00:00:00:01", "mac=02:00:00:00:00:02",
			"usb-host", "vhost-vsock-pci", "edu", "virtio-serial-pci", "virtconsole"},
	},
	"cloud-hypervisor": {
		`"storeOnDisk":true,"storeDisk":"/store","volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"shares":[{"tag":"s","source":"/s","proto":"virtiofs"},{"tag":"f","source":"/f","proto":"virtiofs"}],
			"devices":[{"bus":"pci","path":"0000:01:00.0"},{"bus":"pci","path":"0000:01:00.1"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"tap","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{"path=/store", "path=a.img", "path=b.img", "tag=s,", "tag=f,", "tap=b", "tap=a", "0000:01:00.0", "0000:01:00.1"},
	},
	"crosvm": {
		`"storeOnDisk":true,"storeDisk":"/store","graphics":{"enable":true},"volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"shares":[{"tag":"s","source":"/s","proto":"virtiofs"},{"tag":"f","source":"/f","proto":"virtiofs"},{"tag":"n","source":"/n"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"tap","id":"a","mac":"02:00:00:00:00:02"}],
			"devices":[{"bus":"pci","path":"0000:01:00.0"},{"bus":"pci","path":"0000:01:00.1"}]`,
		[]string{"type=gpu", "/store,", "a.img,", "b.img,", "type=fs,socket=web-virtiofs-s", "type=fs,socket=web-virtiofs-f", "/n:n", "tap-name=b", "tap-name=a", "0000:01:00.0", "0000:01:00.1"},
	},
	"firecracker": {
		`"storeOnDisk":true,"storeDisk":"/store","volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"tap","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{`"/store"`, `"a.img"`, `"b.img"`, `"host_dev_name": "b"`, `"host_dev_name": "a"`},
	},
	"kvmtool": {
		`"storeOnDisk":true,"storeDisk":"/store","volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"shares":[{"tag":"s","source":"/s"},{"tag":"f","source":"/f"}],"devices":[{"bus":"pci","path":"0000:01:00.0"},{"bus":"pci","path":"0000:01:00.1"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"user","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{"/store,ro", "a.img", "b.img", "/s,s", "/f,f", "tapif=b", "mode=user", "0000:01:00.0", "0000:01:00.1"},
	},
	"stratovirt": {
		`"storeOnDisk":true,"storeDisk":"/store","volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],"vsock":{"cid":5},
			"shares":[{"tag":"s","source":"/s","proto":"virtiofs"},{"tag":"f","source":"/f","proto":"virtiofs"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"tap","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{"virtio-rng-device", "drive=store", "drive=volume0", "drive=volume1", "tag=s", "tag=f", "mac=02:00:00:00:00:01", "mac=02:00:00:00:00:02", "vhost-vsock-device"},
	},
	"alioth": {
		`"storeOnDisk":true,"storeDisk":"/store","volumes":[{"image":"a.img","size":1},{"image":"b.img","size":1}],
			"shares":[{"tag":"s","source":"/s","proto":"virtiofs"},{"tag":"f","source":"/f","proto":"virtiofs"}],
			"interfaces":[{"type":"tap","id":"b","mac":"02:00:00:00:00:01"},{"type":"tap","id":"a","mac":"02:00:00:00:00:02"}]`,
		[]string{"path=/store", "path=a.img", "path=b.img", "tag=s", "tag=f", "if=b", "if=a"},
	},
}

// TestDevicesComeInMicrovmNixsOrder: a guest's names of its network interfaces, disks and
// cards depend on it.
func TestDevicesComeInMicrovmNixsOrder(t *testing.T) {
	for name := range backends {
		order, ok := deviceOrders[name]
		if !ok {
			t.Errorf("no order of devices is known for %s", name)
			continue
		}
		s, err := spec.Parse([]byte(`{"name":"web","hypervisor":"` + name + `","arch":"x86_64","kernel":"/k","initrdPath":"/i",` + order.members + `}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// Versions with all devices: a QEMU without chardev hub, a StratoVirt with a random
		// number generator.
		versions := map[string][2]int{"qemu-system-x86_64": {7, 2}, "stratovirt": {2, 4}}
		p, err := (&Builder{Version: func(program string) (int, int, error) {
			if v, ok := versions[program]; ok {
				return v[0], v[1], nil
			}
			return 99, 0, nil
		}}).Compile(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The arguments of a script come before ours, too.
		if ours := p.Argv[len(p.Argv)-p.Last:]; (name == "qemu") != slices.Contains(ours, "virtio-serial-pci,id=microvm-serial") {
			t.Errorf("%s: %q stay last", name, ours)
		}
		words := slices.Clone(p.Argv)
		for _, g := range p.Generated {
			words = append(words, g.Content)
		}
		text := strings.Join(words, " ")
		at := 0
		for _, want := range order.want {
			i := strings.Index(text[at:], want)
			if i < 0 {
				t.Errorf("%s: %s is not in the order of %v:\n%s", name, want, order.want, text)
				break
			}
			at += i
		}
	}
}

// qemuKinds are QEMU's devices in the order of microvm.nix, each with the beginning of its
// argument and the member of a spec that adds it.
var qemuKinds = []struct{ device, member string }{
	{"virtio-rng", ""},
	{"pcie-root-port", ""},
	{"vfio-pci", `"devices":[{"bus":"pci","path":"0000:01:00.0"}]`},
	{"virtio-blk-pci,drive=store", `"storeOnDisk":true,"storeDisk":"/store"`},
	{"virtio-vga-gl", `"graphics":{"enable":true}`},
	{"virtio-balloon", `"balloon":true`},
	{"virtio-mem", `"hotplugMem":512`},
	{"virtio-blk-pci,drive=volume", `"volumes":[{"image":"a.img","size":1}]`},
	{"vhost-user-fs", `"shares":[{"tag":"f","source":"/f","proto":"virtiofs"}]`},
	{"virtio-net", `"interfaces":[{"type":"tap","id":"a","mac":"02:00:00:00:00:01"}]`},
	{"vhost-vsock", `"vsock":{"cid":5}`},
	{"edu", ""},
	{"virtio-serial", ""},
}

// TestEveryChoiceOfDevicesKeepsTheOrder compiles every subset of these members.
func TestEveryChoiceOfDevicesKeepsTheOrder(t *testing.T) {
	var optional []int
	for i, k := range qemuKinds {
		if k.member != "" {
			optional = append(optional, i)
		}
	}
	for chosen := range 1 << len(optional) {
		members := `"qemu":{"machine":"q35","pcieRootPorts":[{"id":"p1"}],"extraArgs":["-device","edu"]}`
		for bit, kind := range optional {
			if chosen&(1<<bit) != 0 {
				members += "," + qemuKinds[kind].member
			}
		}
		p, err := compileFor(t, "qemu", members)
		if err != nil {
			t.Fatalf("%s: %v", members, err)
		}
		last := -1
		for i, word := range p.Argv {
			if word != "-device" {
				continue
			}
			kind := kindOf(p.Argv[i+1])
			if kind >= 0 && kind <= last {
				t.Fatalf("%s: %s comes after %s", members, p.Argv[i+1], qemuKinds[last].device)
			}
			last = max(last, kind)
		}
	}
}

func kindOf(device string) int {
	for i, k := range qemuKinds {
		if strings.HasPrefix(device, k.device) {
			return i
		}
	}
	return -1
}

// TestSlotsAreCountedAsTheyAreTaken: exactly the devices with a slot of their own count for
// the limit of machine q35's bus.
func TestSlotsAreCountedAsTheyAreTaken(t *testing.T) {
	for name, members := range map[string]string{
		"little":                          `"qemu":{"machine":"q35"}`,
		"USB":                             `"qemu":{"machine":"q35"},"devices":[{"bus":"usb","path":"vendorid=1"}]`,
		"USB with GPU":                    `"qemu":{"machine":"q35"},"graphics":{"enable":true},"devices":[{"bus":"usb","path":"vendorid=1"}]`,
		"USB on machine microvm with PCI": `"shares":[{"tag":"s","source":"/s"}],"devices":[{"bus":"usb","path":"vendorid=1"}]`,
		"a card behind a port":            `"qemu":{"machine":"q35","pcieRootPorts":[{"id":"p1"}]},"devices":[{"bus":"pci","path":"0000:01:00.0","qemu":{"bus":"p1"}}]`,
	} {
		p, err := compileFor(t, "qemu", members)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		taken := 0
		for i, word := range p.Argv {
			if word == "-device" && takesSlot(p.Argv[i+1]) {
				taken++
			}
		}
		// As many volumes as there are free slots.
		s, err := spec.Parse(fmt.Appendf(nil, `{"name":"web","arch":"x86_64","kernel":"/k",%s,%s}`, members, volumes(pciSlots-taken)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := new(Builder).Compile(s); err != nil {
			t.Errorf("%s: %d slots are taken, and %d more are refused: %v", name, taken, pciSlots-taken, err)
		}
		s.Volumes = append(s.Volumes, s.Volumes[0])
		if _, err := new(Builder).Compile(s); err == nil {
			t.Errorf("%s: %d slots are taken, and %d more are not refused", name, taken, pciSlots-taken+1)
		}
	}
}

func takesSlot(device string) bool {
	name, _, _ := strings.Cut(device, ",")
	return !slices.Contains([]string{"i8042", "virtconsole", "usb-host", "usb-tablet", "usb-kbd"}, name) && !strings.Contains(device, ",bus=")
}
