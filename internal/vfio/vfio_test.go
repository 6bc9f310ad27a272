package vfio

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

// tree is a fake sysfs and /proc, with devices that no single host has.
type tree struct {
	t   *testing.T
	sys system
}

func newTree(t *testing.T) *tree {
	root := t.TempDir()
	return &tree{t, system{sysfs: root + "/sys", proc: root + "/proc", dev: root + "/dev"}}
}

func (tr *tree) file(path, content string) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) link(path, target string) {
	tr.t.Helper()
	for _, dir := range []string{filepath.Dir(path), target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tr.t.Fatal(err)
		}
	}
	if err := os.Symlink(target, path); err != nil {
		tr.t.Fatal(err)
	}
}

// pci adds a device and returns its directory.
func (tr *tree) pci(address, class, driver, group string) string {
	dir := tr.sys.sysfs + "/devices/pci0000:00/" + address
	tr.file(dir+"/class", class+"\n")
	tr.file(dir+"/driver_override", "(null)\n")
	tr.link(tr.sys.bus("devices", address), dir)
	if driver != "" {
		tr.link(dir+"/driver", tr.sys.bus("drivers", driver))
	}
	if group != "" {
		g := tr.sys.sysfs + "/kernel/iommu_groups/" + group
		tr.link(dir+"/iommu_group", g)
		tr.link(g+"/devices/"+address, dir)
	}
	return dir
}

// disk adds a block device of that number at a directory.
func (tr *tree) disk(number, dir string) { tr.link(tr.sys.sysfs+"/dev/block/"+number, dir) }

const (
	ethernet = "0x020000"
	storage  = "0x010802"
	bridge   = "0x060400"
)

// refusal returns the error of inspecting one device of the tree.
func refusal(tr *tree, r Request) error {
	_, err := r.inspect(tr.sys)
	return err
}

func TestRefusals(t *testing.T) {
	const address = "0000:01:00.0"
	tests := map[string]struct {
		build   func(tr *tree)
		holders map[string]Record
		address string
		want    string
	}{
		"an address that is no address": {
			build: func(*tree) {}, address: "../../../etc", want: "not a PCI address",
		},
		"an address with a path behind it": {
			build: func(*tree) {}, address: "0000:01:00.0/..", want: "not a PCI address",
		},
		"a device that does not exist": {
			build: func(*tree) {}, want: "device 0000:01:00.0: PCI device not found",
		},
		"a bridge": {
			build: func(tr *tree) { tr.pci(address, bridge, "pcieport", "4") },
			want:  "a PCI bridge cannot be passed through",
		},
		"the host bridge": {
			build: func(tr *tree) { tr.pci(address, "0x060000", "", "4") },
			want:  "a bridge of the host's chipset cannot be passed through",
		},
		"the bridge to ISA": {
			build: func(tr *tree) { tr.pci(address, "0x060100", "lpc_ich", "4") },
			want:  "a bridge of the host's chipset cannot be passed through",
		},
		"an IOMMU that is off": {
			build: func(tr *tree) { tr.pci(address, ethernet, "e1000e", "") },
			want:  "the IOMMU is off",
		},
		"a device that the IOMMU does not cover": {
			build: func(tr *tree) {
				tr.pci(address, ethernet, "e1000e", "")
				tr.pci("0000:02:00.0", ethernet, "e1000e", "1")
			},
			want: "it has no IOMMU group",
		},
		"a device that another VM has": {
			build:   func(tr *tree) { tr.pci(address, ethernet, driverName, "4") },
			holders: map[string]Record{"db": {Devices: []Taken{{Address: address, Group: "4"}}}},
			want:    `in use by VM "db"`,
		},
		"a device whose group another VM has": {
			build:   func(tr *tree) { tr.pci(address, ethernet, "e1000e", "4") },
			holders: map[string]Record{"db": {Devices: []Taken{{Address: "0000:01:00.1", Group: "4"}}}},
			want:    `IOMMU group 4 is in use by VM "db", which has 0000:01:00.1`,
		},
		"a group with a device on a host driver": {
			build: func(tr *tree) {
				tr.pci(address, ethernet, "e1000e", "4")
				tr.pci("0000:01:00.1", ethernet, "igb", "4")
				tr.pci("0000:00:1c.0", bridge, "pcieport", "4")
				tr.pci("0000:01:00.2", ethernet, "", "4")
				tr.pci("0000:01:00.3", ethernet, "pci-stub", "4")
			},
			want: "IOMMU group 4 also contains devices on host drivers: 0000:01:00.1 (igb)",
		},
		"the disk of a mounted partition": {
			build: func(tr *tree) {
				dir := tr.pci(address, storage, "ahci", "4")
				tr.disk("8:1", dir+"/ata1/block/sda/sda1")
				tr.file(tr.sys.proc+"/self/mountinfo", "22 1 8:1 / /my\\040disk rw - ext4 /dev/sda1 rw\n")
			},
			want: `it backs the file system mounted at "/my disk"`,
		},
		"a drive below RAID below a volume": {
			build: func(tr *tree) {
				dir := tr.pci(address, storage, "nvme", "4")
				virtual := tr.sys.sysfs + "/devices/virtual/block"
				nvme := dir + "/nvme/nvme0/nvme0n1/nvme0n1p2"
				tr.disk("253:0", virtual+"/dm-0")
				tr.link(virtual+"/dm-0/slaves/md0p1", virtual+"/md0/md0p1")
				tr.link(virtual+"/md0/slaves/nvme0n1p2", nvme)
				tr.file(tr.sys.proc+"/self/mountinfo", "22 1 253:0 / / rw - xfs /dev/dm-0 rw\n")
			},
			want: `it backs the file system mounted at "/"`,
		},
		"one controller of an NVMe drive that has several": {
			build: func(tr *tree) {
				dir := tr.pci(address, storage, "nvme", "4")
				subsys := tr.sys.sysfs + "/devices/virtual/nvme-subsystem/nvme-subsys0"
				tr.disk("259:1", subsys+"/nvme0n1/nvme0n1p1")
				tr.link(subsys+"/nvme0", dir+"/nvme/nvme0")
				tr.file(tr.sys.proc+"/self/mountinfo", "22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n")
			},
			want: `it backs the file system mounted at "/"`,
		},
		"the disk of a swap file": {
			build: func(tr *tree) {
				dir := tr.pci(address, storage, "ahci", "4")
				swap := tr.sys.dev + "/swap file"
				tr.file(swap, "")
				var st unix.Stat_t
				if err := unix.Stat(swap, &st); err != nil {
					tr.t.Fatal(err)
				}
				tr.disk(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), dir+"/ata1/block/sda/sda2")
				tr.file(tr.sys.proc+"/swaps", "Filename Type Size Used Priority\n"+strings.ReplaceAll(swap, " ", "\\040")+" file 8 0 -2\n")
			},
			want: "it backs the swap area",
		},
		"a drive of a btrfs file system": {
			build: func(tr *tree) {
				dir := tr.pci(address, storage, "ahci", "4")
				tr.link(tr.sys.sysfs+"/fs/btrfs/1234/devices/sdb", dir+"/ata1/block/sdb")
				tr.file(tr.sys.proc+"/self/mountinfo", "22 1 0:31 / / rw - btrfs /dev/sda rw\n")
			},
			want: "it backs the mounted btrfs file system 1234",
		},
		"the interface below the bridge of the default route": {
			build: func(tr *tree) {
				dir := tr.pci(address, ethernet, "e1000e", "4")
				br := tr.sys.sysfs + "/devices/virtual/net/br0"
				tr.link(tr.sys.sysfs+"/class/net/br0", br)
				tr.link(br+"/lower_eth0", dir+"/net/eth0")
				tr.file(tr.sys.proc+"/net/route", "Iface\tDestination\tGateway\nbr0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
			},
			want: `the host's default route goes through its interface "br0"`,
		},
		"the interface of the default route of IPv6": {
			build: func(tr *tree) {
				dir := tr.pci(address, ethernet, "e1000e", "4")
				tr.link(tr.sys.sysfs+"/class/net/eth0", dir+"/net/eth0")
				zero := strings.Repeat("0", 32)
				tr.file(tr.sys.proc+"/net/ipv6_route", zero+" 00 "+zero+" 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0\n")
			},
			want: `the host's default route goes through its interface "eth0"`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			test.build(tr)
			r := Request{Addresses: []string{address}, Holders: test.holders}
			if test.address != "" {
				r.Addresses[0] = test.address
			}
			err := refusal(tr, r)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			// A device that may exist or be free later is tried again.
			final := slices.ContainsFunc([]string{"IOMMU is off", "no IOMMU group", "not a PCI address", "a PCI bridge", "chipset"},
				func(s string) bool { return strings.Contains(err.Error(), s) })
			if exit.IsConfig(err) != final {
				t.Errorf("error %v: exit.IsConfig is %v", err, !final)
			}
			if !strings.Contains(err.Error(), r.Addresses[0]) {
				t.Errorf("error %v does not name the device", err)
			}
		})
	}
}

func TestForceTakesWhatTheHostNeedsButNotWhatAnotherVMHas(t *testing.T) {
	const address = "0000:01:00.0"
	tr := newTree(t)
	dir := tr.pci(address, storage, "ahci", "4")
	tr.pci("0000:01:00.1", ethernet, "igb", "4")
	tr.disk("8:1", dir+"/block/sda")
	tr.file(tr.sys.proc+"/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda rw\n")
	var log strings.Builder
	r := Request{Addresses: []string{address}, Force: true, Log: &log}
	if err := refusal(tr, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mounted at", "igb"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log %q does not say %q", log.String(), want)
		}
	}
	r.Holders = map[string]Record{"db": {Devices: []Taken{{Address: address, Group: "4"}}}}
	if err := refusal(tr, r); err == nil {
		t.Error("a device of another VM was taken by force")
	}
}

func TestAFreeDeviceAndItsWholeGroupPass(t *testing.T) {
	tr := newTree(t)
	tr.pci("0000:01:00.0", ethernet, "e1000e", "4")
	tr.pci("0000:01:00.1", ethernet, "e1000e", "4")
	other := tr.pci("0000:02:00.0", storage, "ahci", "5")
	tr.disk("8:1", other+"/block/sda")
	tr.file(tr.sys.proc+"/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda rw\n")
	r := Request{Addresses: []string{"0000:01:00.0", "0000:01:00.1"}, Holders: map[string]Record{"db": {Devices: []Taken{{Address: "0000:02:00.0", Group: "5"}}}}}
	if err := refusal(tr, r); err != nil {
		t.Fatal(err)
	}
}

// TestTheNodesOfADevice: the node of its group, and its own if the kernel creates one.
func TestTheNodesOfADevice(t *testing.T) {
	tr := newTree(t)
	d := device{address: "0000:01:00.0", path: tr.pci("0000:01:00.0", ethernet, driverName, "4"), group: "4"}
	if got, err := tr.sys.nodes(d); err == nil || !strings.Contains(err.Error(), "find device node") {
		t.Errorf("without any: %q, %v", got, err)
	}
	group, own := tr.sys.dev+"/vfio/4", tr.sys.dev+"/vfio/devices/vfio7"
	tr.file(group, "")
	if got, err := tr.sys.nodes(d); err != nil || !slices.Equal(got, []string{group}) {
		t.Errorf("with the group's: %q, %v", got, err)
	}
	tr.file(d.path+"/vfio-dev/vfio7/dev", "511:7\n")
	tr.file(own, "")
	if got, err := tr.sys.nodes(d); err != nil || !slices.Equal(got, []string{group, own}) {
		t.Errorf("with both: %q, %v", got, err)
	}
	if err := os.Remove(group); err != nil {
		t.Fatal(err)
	}
	if got, err := tr.sys.nodes(d); err != nil || !slices.Equal(got, []string{own}) {
		t.Errorf("with its own: %q, %v", got, err)
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	tr := newTree(t)
	r := Request{Addresses: []string{"0000:01:00.0", "nonsense", "0000:01:00.0"}}
	err := refusal(tr, r)
	for _, want := range []string{"0000:01:00.0: PCI device not found", "nonsense: not a PCI address", "listed twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestWhatAnEarlierRunRecordedIsTheTruth(t *testing.T) {
	d := device{address: "0000:01:00.0", driver: driverName, override: driverName, group: "4"}
	before := Record{Devices: []Taken{{Address: d.address, Group: "4", Driver: "e1000e"}}}
	if got := d.taken(before).Driver; got != "e1000e" {
		t.Errorf("driver %q, want e1000e", got)
	}
	if got := d.taken(Record{}).Driver; got != driverName {
		t.Errorf("driver %q, want %s: the device had it before", got, driverName)
	}
}

// TestWhatAnotherProgramTookIsTheHostsAgain: only devices with driver_override, and with
// the driver that the kernel chooses.
func TestWhatAnotherProgramTookIsTheHostsAgain(t *testing.T) {
	tr := newTree(t)
	reserved, byID, ours := "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
	dir := tr.pci(reserved, ethernet, driverName, "4")
	tr.file(dir+"/driver_override", driverName+"\n")
	tr.pci(byID, ethernet, driverName, "5")
	tr.pci(ours, ethernet, "e1000e", "6")
	unbind, probe := tr.sys.bus("drivers", driverName, "unbind"), tr.sys.bus("drivers_probe")
	tr.file(unbind, "")
	tr.file(probe, "")
	record, err := takenByAnother(tr.sys, []string{reserved, byID, ours, "0000:09:00.0", "../x"})
	if err != nil || len(record.Devices) != 1 || record.Devices[0].Address != reserved || record.Devices[0].Group != "4" {
		t.Fatalf("%+v, %v; want %s alone", record, err, reserved)
	}
	if err := record.down(tr.sys); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir + "/driver_override": "\n", unbind: reserved, probe: reserved} {
		if got, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
}

func TestARecordCannotNameOtherFiles(t *testing.T) {
	victim := t.TempDir() + "/null"
	for _, path := range []string{victim, "/dev/vfio/../null", "/dev/null"} {
		if err := (Node{Path: path}).restore(); err == nil {
			t.Errorf("node %q was accepted", path)
		}
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("0000:01:00.0")
	f.Add("10000:e1:00.7")
	f.Add("0000:01:00.8")
	f.Fuzz(func(t *testing.T, s string) {
		if ValidAddress(s) && (strings.ContainsAny(s, "/\x00\n") || len(s) > 16) {
			t.Errorf("address %q is accepted", s)
		}
	})
}
