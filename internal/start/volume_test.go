package start

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/need"
)

// quiet is a start of a plan that logs nothing.
func quiet(plan *hypervisor.Plan) *start {
	return &start{Options: Options{Logf: func(string, ...any) {}}, plan: plan}
}

// volumes creates and grows volumes as a start does, and closes them.
func volumes(dir string, list ...hypervisor.Volume) error {
	held, err := quiet(&hypervisor.Plan{Hypervisor: "qemu", Volumes: list}).volumes(dir)
	held.Close()
	return err
}

// output returns the output of a program.
func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	return string(out)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func ext4(size int) hypervisor.Volume {
	return hypervisor.Volume{Image: "data.img", SizeMiB: size, AutoCreate: true, FSType: "ext4", Label: "data"}
}

func TestVolumesAreMadeWithTheirFileSystems(t *testing.T) {
	sizes := map[string]int{"xfs": 320, "btrfs": 128}
	for kind, how := range fileSystems {
		t.Run(kind, func(t *testing.T) {
			need.Program(t, how.program)
			blkid := need.Program(t, "blkid")
			dir := t.TempDir()
			v := hypervisor.Volume{Image: "v.img", SizeMiB: max(sizes[kind], 16), AutoCreate: true, FSType: kind, Label: "LABEL"}
			if err := volumes(dir, v); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "v.img")
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			if want := int64(v.SizeMiB) * mib; st.Size != want {
				t.Errorf("the image has %d bytes, want %d", st.Size, want)
			}
			if used := st.Blocks * 512; used > st.Size/2 {
				t.Errorf("the image takes %d of its %d bytes: it is not sparse", used, st.Size)
			}
			got := output(t, blkid, "-p", "-s", "TYPE", "-s", "LABEL", "-o", "export", path)
			for _, want := range []string{"TYPE=" + kind, "LABEL=LABEL"} {
				if !strings.Contains(got, want+"\n") {
					t.Errorf("blkid says %q, want %s", got, want)
				}
			}
			if left := names(t, dir); len(left) != 1 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestMkfsArgumentsArePassedOn(t *testing.T) {
	dumpe2fs := need.Program(t, "dumpe2fs")
	dir := t.TempDir()
	v := ext4(16)
	v.MkfsExtraArgs = []string{"-m", "0", "-N", "64"}
	if err := volumes(dir, v); err != nil {
		t.Fatal(err)
	}
	got := output(t, dumpe2fs, "-h", filepath.Join(dir, "data.img"))
	for _, want := range []string{"Inode count:              64\n", "Reserved block count:     0\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("dumpe2fs has no %q:\n%s", want, got)
		}
	}
}

// write creates a file in an ext file system, without mounting it.
func write(t *testing.T, image, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, need.Program(t, "debugfs"), "-w", "-R", "write "+file+" kept", image)
}

// holds checks that write's file still exists, and that the file system is sound and
// as large as the image.
func holds(t *testing.T, image, text string, sizeMiB int) {
	t.Helper()
	if got := output(t, need.Program(t, "debugfs"), "-R", "cat kept", image); !strings.HasSuffix(got, text) {
		t.Errorf("the file holds %q, want %q", got, text)
	}
	output(t, need.Program(t, "e2fsck"), "-f", "-n", image)
	info := output(t, need.Program(t, "dumpe2fs"), "-h", image)
	blocks, size := 0, 0
	for line := range strings.Lines(info) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Block count:"):
			blocks = number(t, f[2])
		case strings.HasPrefix(line, "Block size:"):
			size = number(t, f[2])
		}
	}
	if blocks*size != sizeMiB*mib {
		t.Errorf("the file system has %d bytes, want %d MiB", blocks*size, sizeMiB)
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n := 0
	for _, r := range text {
		n = 10*n + int(r-'0')
	}
	return n
}

func TestExistingVolumeIsKeptAndGrows(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	for _, size := range []int{16, 16, 48} {
		if err := volumes(dir, ext4(size)); err != nil {
			t.Fatalf("%d MiB: %v", size, err)
		}
		if size == 16 {
			write(t, image, "precious")
		}
		holds(t, image, "precious", size)
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func TestGrowthThatWasCutOffIsFinished(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	if err := volumes(dir, ext4(16)); err != nil {
		t.Fatal(err)
	}
	write(t, image, "precious")
	// The image was enlarged, and then the power failed.
	if err := errors.Join(os.WriteFile(beside(image, volumeGrowing), nil, 0o600), os.Truncate(image, 48*mib)); err != nil {
		t.Fatal(err)
	}
	if err := volumes(dir, ext4(48)); err != nil {
		t.Fatal(err)
	}
	holds(t, image, "precious", 48)
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func TestGrowingALargerImageWithAnotherFileSystemLeavesThatAlone(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	if err := os.WriteFile(image, []byte(strings.Repeat("guest's own format ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := volumes(dir, ext4(16)); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 16*mib || string(after[:len(before)]) != string(before) {
		t.Error("the image was touched otherwise than at its end")
	}
}

func TestWhatACrashLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	if err := os.WriteFile(beside(image, volumeTemp), []byte("half a file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := volumes(dir, ext4(16)); err != nil {
		t.Fatal(err)
	}
	output(t, need.Program(t, "e2fsck"), "-f", "-n", image)
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func TestFailedMkfsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	v := ext4(16)
	v.MkfsExtraArgs = []string{"-O", "no-such-feature"}
	err := volumes(dir, v)
	if err == nil || !strings.Contains(err.Error(), "no-such-feature") {
		t.Errorf("got %v, want what mkfs said", err)
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRefusedVolumes(t *testing.T) {
	big := func(t *testing.T, dir string) {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "data.img"), nil, 0o600),
			os.Truncate(filepath.Join(dir, "data.img"), 20*mib)); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		set    func(t *testing.T, dir string)
		volume hypervisor.Volume
		want   string
		code   int
	}{
		"one that shrank":            {big, ext4(16), "has 20 MiB, but size is 16", exit.CodeConfig},
		"a missing one that is kept": {nil, hypervisor.Volume{Image: "data.img", FSType: "ext4"}, "data.img not found, and autoCreate is off", exit.CodeFailed},
		"a directory": {func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "data.img"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, ext4(16), "is a directory, not an image", exit.CodeConfig},
		"a link to nowhere": {func(t *testing.T, dir string) {
			if err := os.Symlink("/mnt/absent/data.img", filepath.Join(dir, "data.img")); err != nil {
				t.Fatal(err)
			}
		}, ext4(16), "is a link to /mnt/absent/data.img, which does not exist or", exit.CodeFailed},
		"one in a directory that is missing": {nil, hypervisor.Volume{Image: "sub/data.img", SizeMiB: 16, AutoCreate: true, FSType: "ext4"}, "\nhint: create the directory", exit.CodeFailed},
		"an unknown file system":             {nil, hypervisor.Volume{Image: "data.img", SizeMiB: 16, AutoCreate: true, FSType: "zfs"}, `"zfs"`, exit.CodeConfig},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.set != nil {
				c.set(t, dir)
			}
			before := names(t, dir)
			err := volumes(dir, c.volume)
			if err == nil || !strings.Contains(exit.Text(err), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			// A later start may find a disk mounted.
			if exit.Code(err) != c.code {
				t.Errorf("exit code %d, want %d", exit.Code(err), c.code)
			}
			if after := names(t, dir); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Errorf("before there was %q, now %q", before, after)
			}
		})
	}
}

func TestKeptVolumeMayHaveAnySize(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data.img"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := hypervisor.Volume{Image: "data.img", SizeMiB: 16, FSType: "ext4"}
	if err := volumes(dir, v); err != nil {
		t.Error(err)
	}
}

func TestVolumeThatALinkLeadsToIsUsed(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	target := filepath.Join(other, "disk.img")
	v := ext4(16)
	v.Image = target // absolute: the operator's choice
	if err := volumes(dir, v); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, "data.img")); err != nil {
		t.Fatal(err)
	}
	write(t, target, "precious")
	if err := volumes(dir, ext4(32)); err != nil {
		t.Fatal(err)
	}
	holds(t, target, "precious", 32)
}

// TestGrowthWhereTheDirectoryIsNotWritable: as a user who may write to the image, but
// not to its directory. The mark is then in the state directory.
func TestGrowthWhereTheDirectoryIsNotWritable(t *testing.T) {
	if os.Getenv(roleUnprivileged) == "" {
		need.Root(t)
		asNobody(t)
		return
	}
	dir, other := os.Getenv(roleUnprivileged), filepath.Join(os.Getenv(roleUnprivileged), "other")
	v := ext4(48)
	v.Image = filepath.Join(other, "data.img")
	// An earlier growth was interrupted.
	work := &volumeWork{dir: dir, path: v.Image}
	if err := work.mark(); err != nil || work.growing() != work.marks()[1] {
		t.Fatalf("%v, %q", err, work.growing())
	}
	if err := volumes(dir, v); err != nil {
		t.Fatal(err)
	}
	holds(t, v.Image, "precious", 48)
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	// No directory for a mark.
	v.SizeMiB = 64
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	err := volumes(dir, v)
	if err == nil || !strings.Contains(exit.Text(err), "\nhint: let the hypervisors' user write to "+other) || exit.Code(err) != exit.CodeConfig {
		t.Errorf("%v", err)
	}
	// No directory for a new image.
	v.Image = filepath.Join(other, "new.img")
	if err := volumes(dir, v); err == nil || !strings.Contains(exit.Text(err), "\nhint: make "+other+" writable for the hypervisors' user") {
		t.Errorf("%v", err)
	}
}

// asNobody runs this test again, as nobody, with an image in a directory owned by root.
func asNobody(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "launch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	other := filepath.Join(dir, "other")
	const nobody = 65534
	v := ext4(16)
	v.Image = filepath.Join(other, "data.img")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(other, 0o755), volumes(dir, v)); err != nil {
		t.Fatal(err)
	}
	write(t, v.Image, "precious")
	self := filepath.Join(dir, "test")
	data, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(self, data, 0o755), os.Chown(v.Image, nobody, nobody), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join("/tmp", filepath.Base(dir)+".test")
	if err := os.Rename(self, run); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(run) })
	cmd := exec.Command(run, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), roleUnprivileged+"="+dir, "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestAFullDiskIsNamed: on a file system without free space.
func TestAFullDiskIsNamed(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	err := volumes(dir, ext4(64))
	if err == nil || !strings.Contains(exit.Text(err), "\nhint: free some space on the file system of "+dir) {
		t.Errorf("%v", err)
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestWhatHasAnotherNameIsNotEmptied: an image's temporary name may be a second
// name of something, after a crash on a file system without atomic renames.
func TestWhatHasAnotherNameIsNotEmptied(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	kept := filepath.Join(t.TempDir(), "kept")
	for name, leave := range map[string]func() error{
		"a second name": func() error {
			return errors.Join(os.WriteFile(kept, []byte("precious"), 0o600), os.Link(kept, beside(image, volumeTemp)))
		},
		"a link":      func() error { return os.Symlink(kept, beside(image, volumeTemp)) },
		"a pipe":      func() error { return unix.Mkfifo(beside(image, volumeTemp), 0o600) },
		"a directory": func() error { return os.Mkdir(beside(image, volumeTemp), 0o700) },
	} {
		_ = os.Remove(image)
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		if err := volumes(dir, ext4(16)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := names(t, dir); len(left) != 1 {
			t.Errorf("%s: left behind: %q", name, left)
		}
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != "precious" {
		t.Errorf("it holds %q, %v", data, err)
	}
}
