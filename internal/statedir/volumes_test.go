package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRecordOfWhereImagesAre checks when the file system of an image is recorded.
func TestRecordOfWhereImagesAre(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to mount a file system; run the tests as root")
	}
	// Not in the temporary directory, which may be a tmpfs as the mount below is.
	top, err := os.MkdirTemp("/var/lib", "microvm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	host := Host{StateDir: filepath.Join(top, "vms"), User: "nobody", Group: "nogroup"}
	vm := VM{Host: host, Name: "web"}
	disk := filepath.Join(top, "disk")
	if err := os.Mkdir(host.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(host.StateDir, 0o755), os.Mkdir(vm.Dir(), 0o755), os.Mkdir(disk, 0o755)); err != nil {
		t.Fatal(err)
	}
	images := []string{"data.img", filepath.Join(disk, "big.img")}
	known := func(dir string) (string, bool) {
		fsys, ok, err := vm.FileSystemBefore(filepath.Join(dir, "x.img"))
		if err != nil {
			t.Fatal(err)
		}
		return fsys.String(), ok
	}
	record := func() {
		t.Helper()
		if err := vm.RecordVolumes(images); err != nil {
			t.Fatal(err)
		}
	}
	record() // not installed by this program: nothing is kept
	if err := vm.makeRecord(); err != nil {
		t.Fatal(err)
	}
	record()
	if _, ok := known(disk); ok {
		t.Error("a directory where no start could make an image was noted")
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	if err := os.WriteFile(images[1], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	record()
	if fsys, ok := known(disk); !ok || fsys != "tmpfs" {
		t.Errorf("%s, %v", fsys, ok)
	}
	// The image and its disk are missing: the record remains.
	if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	record()
	if fsys, ok := known(disk); !ok || fsys != "tmpfs" {
		t.Errorf("%s, %v", fsys, ok)
	}
	// The image was moved with its directory: the new place is recorded.
	if err := os.WriteFile(images[1], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	record()
	before, ok := known(disk)
	now, _ := known(vm.Dir())
	if !ok || before == "tmpfs" {
		t.Errorf("%s, %v, %s", before, ok, now)
	}
	// The operator is told to remove the record if the image is meant to be missing.
	if err := os.Remove(vm.VolumesRecord()); err != nil {
		t.Fatal(err)
	}
	if _, ok := known(disk); ok {
		t.Error("it is still known")
	}
	// A record that cannot be parsed is an error for readers, and is written again.
	if err := os.WriteFile(vm.VolumesRecord(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := vm.FileSystemBefore(images[1]); err == nil {
		t.Error("half a record was read")
	}
	record()
	if _, ok := known(disk); !ok {
		t.Error("it was not written again")
	}
	images = nil
	record()
	if exists(vm.VolumesRecord()) {
		t.Error("the record of a VM without images stays")
	}
}

// TestWhatAHypervisorPutsInTheWayIsNotFollowed: it can write in its VM's directory.
func TestWhatAHypervisorPutsInTheWayIsNotFollowed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to have a record of root's; run the tests as root")
	}
	vm := VM{Host: Host{StateDir: t.TempDir(), User: "nobody", Group: "nogroup"}, Name: "web"}
	if err := errors.Join(os.Chmod(vm.Host.StateDir, 0o755), os.Mkdir(vm.Dir(), 0o777), os.Symlink("/proc", filepath.Join(vm.Dir(), "sub")),
		os.Symlink("/etc/passwd", filepath.Join(vm.Dir(), "data.img"))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vm.makeRecord(), vm.RecordVolumes([]string{"sub/version", "data.img"})); err != nil {
		t.Fatal(err)
	}
	if all, err := vm.recordedVolumes(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestTheRecordDoesNotDependOnTheWayToIt: the state directory may be a link that root
// owns, and it is the wrapper's working directory.
func TestTheRecordDoesNotDependOnTheWayToIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to have a record of root's; run the tests as root")
	}
	real := t.TempDir()
	link := filepath.Join(t.TempDir(), "microvms")
	vm := VM{Host: Host{StateDir: real, User: "nobody", Group: "nogroup"}, Name: "web"}
	if err := errors.Join(os.Chmod(real, 0o755), os.Mkdir(vm.Dir(), 0o755), os.Symlink(real, link), vm.makeRecord(),
		os.WriteFile(filepath.Join(vm.Dir(), "data.img"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	vm.Host.StateDir = link
	if fsys, ok := vm.fileSystemOf(vm.Dir(), "data.img", false); !ok {
		t.Errorf("%v: the image was not found behind the link", fsys)
	}
}
