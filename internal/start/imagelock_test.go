package start

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/need"
	"microvm/test/testutil"
)

// blank creates an empty image of some size.
func blank(t *testing.T, path string, mibs int64) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, mibs*mib)); err != nil {
		t.Fatal(err)
	}
	return path
}

func digest(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return string(sum[:])
}

// openImage opens a file until the test ends.
func openImage(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// others are the locks that hypervisors hold, as strace(1) shows them: QEMU 7.2 and
// 10.0, Cloud Hypervisor 54, crosvm of August 2026. Those of StratoVirt 2.5 are from
// its source.
var others = map[string]func(t *testing.T, f *os.File){
	"a QEMU that writes":             qemuLocks(100, 101, 201, 203),
	"a QEMU that reads":              qemuLocks(100, 201, 203),
	"a QEMU that shares":             qemuLocks(100, 101, 203),
	"a Cloud Hypervisor that writes": func(t *testing.T, f *os.File) { must(t, setLock(f, unix.F_WRLCK, 0, 64*mib)) },
	"a Cloud Hypervisor that reads":  func(t *testing.T, f *os.File) { must(t, setLock(f, unix.F_RDLCK, 0, 64*mib)) },
	"a StratoVirt that writes":       stratovirtLocks(unix.F_WRLCK),
	"a StratoVirt that reads":        stratovirtLocks(unix.F_RDLCK),
	"a crosvm that writes":           func(t *testing.T, f *os.File) { must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)) },
	"a crosvm that reads":            func(t *testing.T, f *os.File) { must(t, unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)) },
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func qemuLocks(bytes ...int64) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		for _, b := range bytes {
			must(t, setLock(f, unix.F_RDLCK, b, 1))
		}
	}
}

// stratovirtLocks are of the process, F_SETLK.
func stratovirtLocks(kind int16) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		for _, b := range []int64{101, 102, 202} {
			must(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: b, Len: 1}))
		}
	}
}

// TestWhoMayHaveAnImageBesideWhom: a use that is not listed finds the image busy.
func TestWhoMayHaveAnImageBesideWhom(t *testing.T) {
	beside := map[string][]use{
		"a QEMU that writes":             nil,
		"a QEMU that reads":              {reading, sharingReading},
		"a QEMU that shares":             {sharing, sharingReading},
		"a Cloud Hypervisor that writes": nil,
		"a Cloud Hypervisor that reads":  {reading},
		"a StratoVirt that writes":       nil,
		"a StratoVirt that reads":        {reading, sharingReading},
		"a crosvm that writes":           {sharingReading},
		"a crosvm that reads":            {reading, sharingReading},
	}
	for name, lock := range others {
		for _, u := range []use{alone, reading, sharing, sharingReading} {
			path := blank(t, filepath.Join(t.TempDir(), "x.img"), 64)
			lock(t, openImage(t, path))
			im := &image{path: path, file: openImage(t, path), use: u}
			err := im.lock()
			if err == nil {
				err = im.settle()
			}
			if may := slices.Contains(beside[name], u); may != (err == nil) || err != nil && !errors.Is(err, errBusy) {
				t.Errorf("use %d beside %s: %v, want it to work: %v", u, name, err, may)
			}
		}
	}
}

// TestTwoVMsOfOurs: the locks that remain with hypervisors that lock nothing themselves.
func TestTwoVMsOfOurs(t *testing.T) {
	may := map[use][]use{reading: {reading}, sharing: {sharing, sharingReading}, sharingReading: {sharing, sharingReading, reading}, alone: nil}
	for first, others := range may {
		for _, second := range []use{alone, reading, sharing, sharingReading} {
			path := blank(t, filepath.Join(t.TempDir(), "x.img"), 1)
			one, other := &image{path: path, file: openImage(t, path), use: first}, &image{path: path, file: openImage(t, path), use: second}
			must(t, errors.Join(one.lock(), one.settle()))
			err := other.lock()
			if err == nil {
				err = other.settle()
			}
			// A reader that allows writers is compatible with one that does not.
			want := slices.Contains(others, second) || first == reading && second == sharingReading
			if want != (err == nil) {
				t.Errorf("use %d beside use %d: %v, want it to work: %v", second, first, err, want)
			}
		}
	}
}

// qemuWith starts a QEMU that uses the image, and waits until it has locked it.
func qemuWith(t *testing.T, path, drive, device string) *exec.Cmd {
	t.Helper()
	qemu := need.Program(t, "qemu-system-x86_64")
	cmd := exec.Command(qemu, "-M", "microvm", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S",
		"-drive", "id=d,if=none,format=raw,"+drive+",file="+path, "-device", "virtio-blk-device,drive=d"+device)
	var out strings.Builder
	cmd.Stderr = &out
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	f := openImage(t, path)
	testutil.Until(t, "QEMU's lock", func() bool {
		_, found, err := conflict(f, unix.F_WRLCK, 201, 1)
		return err == nil && found
	})
	return cmd
}

// TestAnImageThatAQEMUHasIsLeftAlone is the test of a fixed fault: the second VM
// declares the image larger.
func TestAnImageThatAQEMUHasIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	must(t, volumes(dir, ext4(16)))
	path := filepath.Join(dir, "data.img")
	before := digest(t, path)
	qemu := qemuWith(t, path, "read-only=off", "")
	for name, v := range map[string]hypervisor.Volume{
		"larger": ext4(48), "as large": ext4(16),
		"to read":     {Image: "data.img", ReadOnly: true},
		"shared":      {Image: "data.img", Shared: true, AutoCreate: true, SizeMiB: 48, FSType: "ext4"},
		"shared read": {Image: "data.img", Shared: true, ReadOnly: true},
	} {
		err := volumes(dir, v)
		if err == nil {
			t.Errorf("%s: it was taken from the QEMU that has it", name)
			continue
		}
		if want := "is in use by process "; !strings.Contains(exit.Text(err), want) || !strings.Contains(exit.Text(err), "\nhint: ") {
			t.Errorf("%s: %v, want %q and a hint", name, err, want)
		}
		if exit.Code(err) != exit.CodeFailed {
			t.Errorf("%s: exit code %d, want one that is tried again", name, exit.Code(err))
		}
	}
	if digest(t, path) != before {
		t.Error("the image was changed")
	}
	must(t, qemu.Process.Kill())
	_ = qemu.Wait()
	must(t, volumes(dir, ext4(48)))
}

// TestQEMUTakesWhatWeLeaveIt: the locks that remain after a start keep QEMU from
// images that it must not use, and from no others.
func TestQEMUTakesWhatWeLeaveIt(t *testing.T) {
	qemu := need.Program(t, "qemu-system-x86_64")
	for name, c := range map[string]struct {
		ours          use
		drive, device string
		works         bool
	}{
		"one reads, and QEMU":                    {reading, "read-only=on", "", true},
		"one reads, and QEMU as it is told to":   {reading, "read-only=on,file.locking=off", "", true},
		"one reads, and QEMU writes":             {reading, "read-only=off", "", false},
		"one writes, and QEMU":                   {alone, "read-only=off", "", false},
		"one shares, and QEMU":                   {sharing, "read-only=off", ",share-rw=on", true},
		"one shares, and QEMU wants it alone":    {sharing, "read-only=off", "", false},
		"one reads what is shared, QEMU as well": {sharingReading, "read-only=off", ",share-rw=on", true},
	} {
		path := blank(t, filepath.Join(t.TempDir(), "x.img"), 1)
		im := &image{path: path, file: openImage(t, path), use: c.ours}
		must(t, errors.Join(im.lock(), im.settle()))
		// The monitor quits QEMU as soon as it is up.
		cmd := exec.Command(qemu, "-M", "microvm", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio",
			"-drive", "id=d,if=none,format=raw,"+c.drive+",file="+path, "-device", "virtio-blk-device,drive=d"+c.device)
		cmd.Stdin = strings.NewReader("quit\n")
		if out, err := cmd.CombinedOutput(); c.works != (err == nil) {
			t.Errorf("%s: %v, want it to work: %v\n%s", name, err, c.works, out)
		}
	}
}

func TestOneStoreImageServesQEMUBesideCloudHypervisor(t *testing.T) {
	path := blank(t, filepath.Join(t.TempDir(), "store.img"), 1)
	must(t, setLock(openImage(t, path), unix.F_RDLCK, 0, mib))
	qemu := need.Program(t, "qemu-system-x86_64")
	cmd := exec.Command(qemu, "-M", "microvm", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio",
		"-drive", "id=d,if=none,format=raw,read-only=on,file.locking=off,file="+path, "-device", "virtio-blk-device,drive=d")
	cmd.Stdin = strings.NewReader("quit\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestALockStaysWithAHypervisorThatTakesNone(t *testing.T) {
	for keep, want := range map[bool]error{true: errBusy, false: nil} {
		dir := t.TempDir()
		path := blank(t, filepath.Join(dir, "x.img"), 1)
		file := filepath.Join(dir, "seen")
		s := launch(t, pack(t, &hypervisor.Plan{
			Hypervisor: "firecracker", Argv: []string{self(t)}, Env: []string{roleShow + "=" + file},
			Volumes: []hypervisor.Volume{{Image: path, KeepLock: keep}},
		}))
		got := seen(t, file)
		held := false
		for _, target := range got.FDs {
			held = held || target == path
		}
		if held != keep {
			t.Errorf("keepLock %v: the hypervisor has %v", keep, got.FDs)
		}
		if err := setLock(openImage(t, path), unix.F_WRLCK, 0, 0); !errors.Is(err, want) {
			t.Errorf("keepLock %v: %v, want %v", keep, err, want)
		}
		must(t, s.cmd.Process.Kill())
	}
}

func TestTwoStartsThatMakeOneImage(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = volumes(dir, ext4(16)) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		switch {
		case err == nil:
			made++
		case !strings.Contains(err.Error(), "is in use by") && !strings.Contains(err.Error(), "another start is creating"):
			t.Error(err)
		}
	}
	if made == 0 {
		t.Error("none made it")
	}
	output(t, need.Program(t, "e2fsck"), "-f", "-n", filepath.Join(dir, "data.img"))
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func TestTheVMsOwnCommandsMayUseItsImages(t *testing.T) {
	dir := t.TempDir()
	path := blank(t, filepath.Join(dir, "data.img"), 1)
	v := hypervisor.Volume{Image: "data.img"}
	held, err := quiet(&hypervisor.Plan{Volumes: []hypervisor.Volume{v}}).volumes(dir)
	must(t, err)
	defer held.Close()
	must(t, held.lend("web", func() error {
		tool := openImage(t, path)
		defer func() { _ = tool.Close() }()
		qemuLocks(100, 101, 201, 203)(t, tool)
		if err := volumes(dir, v); err == nil {
			t.Error("another start took the image")
		}
		return nil
	}))
}

func TestASharedVolumeGrowsWhenNobodyElseHasIt(t *testing.T) {
	dir := t.TempDir()
	v := ext4(16)
	v.Shared = true
	held, err := quiet(&hypervisor.Plan{Volumes: []hypervisor.Volume{v}}).volumes(dir)
	must(t, err)
	path := filepath.Join(dir, "data.img")
	before := digest(t, path)
	larger := v
	larger.SizeMiB = 48
	must(t, volumes(dir, larger))
	if digest(t, path) != before {
		t.Error("it was grown under another VM")
	}
	held.Close()
	must(t, volumes(dir, larger))
	output(t, need.Program(t, "e2fsck"), "-f", "-n", path)
	if info, err := os.Stat(path); err != nil || info.Size() != 48*mib {
		t.Errorf("%v, %v", info.Size(), err)
	}
}

func TestOneFileUnderTwoNamesIsRefused(t *testing.T) {
	dir := t.TempDir()
	blank(t, filepath.Join(dir, "a.img"), 1)
	must(t, os.Link(filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")))
	a, b := hypervisor.Volume{Image: "a.img"}, hypervisor.Volume{Image: "b.img"}
	if err := volumes(dir, a, b); err == nil || !strings.Contains(err.Error(), "are the same file") {
		t.Errorf("%v", err)
	}
	a.ReadOnly, b.ReadOnly = true, true
	must(t, volumes(dir, a, b))
}
