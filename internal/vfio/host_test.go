package vfio

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// These tests take a real device from a real driver. They need the VM host, with its own
// kernel, an IOMMU and an unused e1000e.

const (
	testUID = 65534
	testGID = 65534
)

var realSystem = system{sysfs: "/sys", proc: "/proc", dev: "/dev"}

// spareCard returns the address of the e1000e that the tests may take.
func spareCard(t *testing.T) string {
	t.Helper()
	// Only the VM host has a spare e1000e.
	need.InHost(t, need.VM)
	// A previous test may just have given the card back, and udev renames its interface.
	if out, err := exec.Command("udevadm", "settle").CombinedOutput(); err != nil {
		t.Fatalf("udevadm settle: %v: %s", err, out)
	}
	dirs, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		vendor, _ := readLine(dir + "/vendor")
		id, _ := readLine(dir + "/device")
		if vendor == "0x8086" && id == "0x10d3" {
			return filepath.Base(dir)
		}
	}
	t.Fatal("the VM host has no e1000e (8086:10d3)")
	return ""
}

// driverOf returns the driver of a device, read independently of the code under test.
func driverOf(t *testing.T, address string) string {
	t.Helper()
	target, err := os.Readlink("/sys/bus/pci/devices/" + address + "/driver")
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(target)
}

// groupNode is the device node of the card's IOMMU group.
func groupNode(t *testing.T, address string) string {
	t.Helper()
	target, err := os.Readlink("/sys/bus/pci/devices/" + address + "/iommu_group")
	if err != nil {
		t.Fatal(err)
	}
	return "/dev/vfio/" + filepath.Base(target)
}

func wantUntouched(t *testing.T, address string) {
	t.Helper()
	if got := driverOf(t, address); got != "e1000e" {
		t.Errorf("device %s is with driver %q, want e1000e", address, got)
	}
	override, err := os.ReadFile("/sys/bus/pci/devices/" + address + "/driver_override")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(override)); got != "(null)" {
		t.Errorf("driver_override is %q, want none", got)
	}
	if _, err := os.Stat(groupNode(t, address)); err == nil {
		t.Errorf("%s is still there", groupNode(t, address))
	}
}

// store keeps the last record, as the file of a helper does.
type store struct {
	record Record
	saves  int
}

func (s *store) save(r Record) error {
	s.saves++
	s.record = Record{Devices: slices.Clone(r.Devices)}
	return nil
}

func request(addresses ...string) Request {
	return Request{Addresses: addresses, UID: testUID, GID: testGID}
}

func TestUpTakesTheDeviceAndDownGivesItBack(t *testing.T) {
	address := spareCard(t)
	var st store
	if err := request(address).Up(Record{}, st.save); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.record.Down() })
	if got := driverOf(t, address); got != "vfio-pci" {
		t.Errorf("driver %q, want vfio-pci", got)
	}
	var stat unix.Stat_t
	if err := unix.Stat(groupNode(t, address), &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Uid != testUID || stat.Gid != testGID || stat.Mode&0o7777 != 0o660 {
		t.Errorf("node is %d:%d %04o, want %d:%d 0660", stat.Uid, stat.Gid, stat.Mode&0o7777, testUID, testGID)
	}
	openAs(t, groupNode(t, address))

	if err := request(address).Up(st.record, st.save); err != nil {
		t.Fatalf("up again: %v", err)
	}
	if got := st.record.Devices[0].Driver; got != "e1000e" {
		t.Errorf("after a second up the record names driver %q, want e1000e", got)
	}
	for range 2 {
		if err := st.record.Down(); err != nil {
			t.Fatal(err)
		}
		wantUntouched(t, address)
	}
}

// openAs opens the node as the hypervisor's user does.
func openAs(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `exec 3<>"$0"`, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUID, Gid: testGID}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("open %s as user %d: %v: %s", path, testUID, err, out)
	}
}

// TestADeviceThatMicrovmNixTookIsGivenBack takes the device as microvm.nix's script does,
// by the steps of the kernel's documentation.
func TestADeviceThatMicrovmNixTookIsGivenBack(t *testing.T) {
	address := spareCard(t)
	script := "modprobe vfio-pci && cd /sys/bus/pci/devices/$0 && echo $0 > driver/unbind && echo vfio-pci > driver_override && echo $0 > /sys/bus/pci/drivers_probe && chown nobody " + groupNode(t, address)
	if out, err := exec.Command("sh", "-ec", script, address).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	record, err := TakenByAnother([]string{address})
	if err != nil || len(record.Devices) != 1 || len(record.Devices[0].Nodes) == 0 {
		t.Errorf("%+v, %v; want the card with its node", record, err)
	}
	second := request(address)
	second.Holders = map[string]Record{"first": record}
	if err := second.Up(Record{}, new(store).save); err == nil || !strings.Contains(err.Error(), `in use by VM "first"`) {
		t.Errorf("error %v, want one that names the VM", err)
	}
	if err := record.Down(); err != nil {
		t.Fatal(err)
	}
	wantUntouched(t, address)
	if record, err := TakenByAnother([]string{address}); err != nil || len(record.Devices) > 0 {
		t.Errorf("given back, it is still taken: %+v, %v", record, err)
	}
}

func TestAFailureAtAnyRecordGivesTheDeviceBack(t *testing.T) {
	address := spareCard(t)
	var count store
	if err := request(address).Up(Record{}, count.save); err != nil {
		t.Fatal(err)
	}
	if err := count.record.Down(); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	for fail := 1; fail < count.saves; fail++ {
		calls := 0
		err := request(address).Up(Record{}, func(Record) error {
			if calls++; calls == fail {
				return full
			}
			return nil
		})
		if !errors.Is(err, full) {
			t.Errorf("failure %d: error %v, want %v", fail, err, full)
		}
		wantUntouched(t, address)
	}
}

// wiredCard is the VM host's card on the same wire as the spare one, which is in
// a group of its own.
func wiredCard(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/sys/bus/pci/devices/*/*/net/*/address")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if mac, _ := readLine(file); mac == "52:54:00:00:00:02" {
			return strings.Split(file, "/")[5]
		}
	}
	t.Fatal("the VM host has no card with the address 52:54:00:00:00:02")
	return ""
}

func TestSeveralDevicesOfSeveralGroupsAreTakenAllOrNone(t *testing.T) {
	spare, wired := spareCard(t), wiredCard(t)
	driver := driverOf(t, wired)
	if groupNode(t, spare) == groupNode(t, wired) {
		t.Fatalf("%s and %s are in one group", spare, wired)
	}
	both := request(spare, wired)
	var st store
	if err := both.Up(Record{}, st.save); err != nil {
		t.Fatal(err)
	}
	for _, address := range both.Addresses {
		if got := driverOf(t, address); got != "vfio-pci" {
			t.Errorf("%s is with driver %q, want vfio-pci", address, got)
		}
		openAs(t, groupNode(t, address))
	}
	untouched := func() {
		t.Helper()
		wantUntouched(t, spare)
		if got := driverOf(t, wired); got != driver {
			t.Errorf("%s is with driver %q, want %q", wired, got, driver)
		}
	}
	if err := st.record.Down(); err != nil {
		t.Fatal(err)
	}
	untouched()
	// The record after the second device is the last but one.
	full, calls := errors.New("no space left"), 0
	err := both.Up(Record{}, func(Record) error {
		if calls++; calls == 3 {
			if got := driverOf(t, wired); got != "vfio-pci" {
				t.Errorf("at its record the second device is with %q", got)
			}
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
	untouched()
}

func TestARunThatWasKilledIsUndoneFromItsRecord(t *testing.T) {
	address := spareCard(t)
	for stop := 1; stop <= 3; stop++ {
		var st store
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = request(address).Up(Record{}, func(r Record) error {
				err := st.save(r)
				if st.saves == stop {
					// No deferred call of the code under test runs on SIGKILL
					// either; it has none.
					runtime.Goexit()
				}
				return err
			})
		}()
		<-done
		if err := st.record.Down(); err != nil {
			t.Fatalf("killed at record %d: %v", stop, err)
		}
		wantUntouched(t, address)
	}
}

func TestTheSecondVMIsToldWhoHasTheDevice(t *testing.T) {
	address := spareCard(t)
	var st store
	if err := request(address).Up(Record{}, st.save); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.record.Down() })
	second := request(address)
	second.Holders = map[string]Record{"first": st.record}
	err := second.Up(Record{}, func(Record) error { t.Error("a record was written"); return nil })
	if err == nil || !strings.Contains(err.Error(), `in use by VM "first"`) {
		t.Errorf("error %v, want one that names the VM", err)
	}
	if got := driverOf(t, address); got != "vfio-pci" {
		t.Errorf("the first VM lost its device to %q", got)
	}
}

func TestTheDiskOfTheRootFileSystemIsRefused(t *testing.T) {
	spareCard(t)
	var stat unix.Stat_t
	if err := unix.Stat("/", &stat); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)))
	if err != nil {
		t.Fatal(err)
	}
	for !ValidAddress(filepath.Base(dir)) {
		if dir = filepath.Dir(dir); dir == "/" {
			t.Fatal("the root file system is on no PCI device")
		}
	}
	address := filepath.Base(dir)
	driver := driverOf(t, address)
	err = request(address).Up(Record{}, func(Record) error { t.Error("a record was written"); return nil })
	if err == nil || !strings.Contains(err.Error(), `mounted at "/"`) {
		t.Errorf("error %v, want one that names the mount point", err)
	}
	if got := driverOf(t, address); got != driver {
		t.Errorf("driver %q, want %q", got, driver)
	}
}

func TestTheCardOfTheDefaultRouteIsRefusedUnlessForced(t *testing.T) {
	address := spareCard(t)
	nets, err := filepath.Glob("/sys/bus/pci/devices/" + address + "/net/*")
	if err != nil || len(nets) != 1 {
		t.Fatalf("interfaces %v, %v; want one", nets, err)
	}
	name := filepath.Base(nets[0])
	for _, args := range [][]string{{"link", "set", name, "up"}, {"route", "add", "default", "dev", name, "metric", "4242"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "route", "del", "default", "metric", "4242").Run() })
	var st store
	err = request(address).Up(Record{}, st.save)
	if err == nil || !strings.Contains(err.Error(), "default route goes through") {
		t.Errorf("error %v, want one that names the route", err)
	}
	wantUntouched(t, address)
	forced := request(address)
	forced.Force = true
	if err := forced.Up(Record{}, st.save); err != nil {
		t.Fatal(err)
	}
	if err := st.record.Down(); err != nil {
		t.Fatal(err)
	}
	wantUntouched(t, address)
}

func TestABridgeOfTheHostIsRefused(t *testing.T) {
	spareCard(t)
	dirs, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		d, err := realSystem.read(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		if !d.bridge {
			continue
		}
		if _, err := request(d.address).inspect(realSystem); err == nil || !strings.Contains(err.Error(), "bridge") {
			t.Errorf("bridge %s: error %v", d.address, err)
		}
		return
	}
	t.Fatal("the VM host has no PCI bridge")
}
