package runner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
	"microvm/test/need"
)

// hypervisorsVariable names a directory with programs of hypervisors that no distribution
// has.
const hypervisorsVariable = "MICROVM_TEST_HYPERVISORS"

// realProgram describes how a hypervisor shows that it accepted a command line: by running
// or, if it creates the machine with all its devices before it reads the kernel, by refusing
// an invalid kernel.
type realProgram struct {
	program string
	// bad is an option that it must refuse: almost one of its own.
	bad []string
	// badConfig is the same for a file that it reads: the old and the new text.
	badConfig [2]string
	// noKVM is its message, after it has parsed its command line, on a host where it
	// cannot use KVM.
	noKVM string
	// noKernel is its message for an invalid kernel; empty means that it runs.
	noKernel string
}

var realPrograms = map[string]realProgram{
	"kvmtool":          {program: "lkvm", bad: []string{"-n", "mode=tap,tapif=x,host_mac=02:00:00:00:00:01"}, noKVM: "Your CPU does not support hardware virtualization"},
	"alioth":           {program: "alioth", bad: []string{"--net", "tap,if=x,mac=02:00:00:00:00:01"}},
	"stratovirt":       {program: "stratovirt", bad: []string{"-device", "virtio-blk,drive=volume0"}},
	"cloud-hypervisor": {program: "cloud-hypervisor", bad: []string{"--pmem", "files=x"}, noKernel: "Cannot load the kernel into memory"},
	"crosvm":           {program: "crosvm", bad: []string{"--block", "x,readonly=true"}, noKernel: "error loading Kernel"},
	"firecracker":      {program: "firecracker", bad: []string{"--level-of", "Warning"}, badConfig: [2]string{`"guest_mac"`, `"mac"`}, noKernel: "Cannot load kernel"},
}

// TestRealProgramsAcceptTheirCommandLines starts the installed programs with each command
// line of the golden files: one that refuses it exits at once.
func TestRealProgramsAcceptTheirCommandLines(t *testing.T) {
	dir := os.Getenv(hypervisorsVariable)
	if dir == "" {
		t.Skipf("SKIPPED: %s names no directory with hypervisors", hypervisorsVariable)
	}
	need.Root(t)
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	_ = kvm.Close()
	for _, name := range specNames(t) {
		s := readSpec(t, name)
		real, ok := realPrograms[s.Hypervisor]
		// A jailed VM's files have other paths, and no release of Cloud Hypervisor has a GPU.
		if !ok || s.Arch != "x86_64" || s.Firecracker.Jailer || s.Hypervisor == "cloud-hypervisor" && s.Graphics.Enable {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, real.program)); err != nil {
			t.Logf("NOT RUN: %s: %v", name, err)
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := newRealTrial(t, dir, real, s)
			if err := r.start(nil); err != nil {
				t.Error(err)
			}
			if err := r.start(real.bad); err == nil {
				t.Errorf("%q is accepted, so the rest may be too, wrong or not", real.bad)
			}
			if r.spoil(t) {
				if err := r.start(nil); err == nil {
					t.Errorf("%q is accepted, so the rest may be too, wrong or not", real.badConfig)
				}
			}
		})
	}
}

// realTrial starts one program.
type realTrial struct {
	trial
	real realProgram
}

func newRealTrial(t *testing.T, programs string, real realProgram, s *spec.Spec) *realTrial {
	t.Helper()
	program := filepath.Join(programs, real.program)
	dir, err := os.MkdirTemp("", "r") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &realTrial{trial: trial{spec: s, program: program, dir: dir}, real: real}
	if r.plan, err = realBuilder(t, program).Compile(s); err != nil {
		t.Fatal(err)
	}
	r.plan.Argv = leaveOut(t, s, slices.Concat(r.plan.Argv, r.plan.Landlock))
	r.populate(t)
	kernel := idleKernel()
	if real.noKernel != "" {
		kernel = []byte("no kernel")
	}
	for _, name := range []string{"vmlinuz", "vmlinux"} {
		if err := os.WriteFile(filepath.Join(dir, name), kernel, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range r.plan.Generated {
		content := strings.ReplaceAll(g.Content, "/srv/vm", dir)
		if err := os.WriteFile(filepath.Join(dir, g.Path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.serveShares(t)
	return r
}

// realBuilder compiles for the program's own version, if it has one.
func realBuilder(t *testing.T, program string) *hypervisor.Builder {
	t.Helper()
	return &hypervisor.Builder{Version: func(string) (major, minor int, err error) {
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			return 0, 0, err
		}
		_, err = fmt.Sscanf(regexp.MustCompile(`[0-9]+\.[0-9]+`).FindString(string(out)), "%d.%d", &major, &minor)
		return major, minor, err
	}}
}

// spoil writes something invalid into the files that the program reads, and reports whether
// it reads any.
func (r *realTrial) spoil(t *testing.T) bool {
	t.Helper()
	if r.real.badConfig[0] == "" {
		return false
	}
	spoilt := false
	for _, g := range r.plan.Generated {
		path := filepath.Join(r.dir, g.Path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := strings.Replace(string(data), r.real.badConfig[0], r.real.badConfig[1], 1)
		spoilt = spoilt || bad != string(data)
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return spoilt
}

// idleKernel returns an x86 kernel that loops forever at each of its entry points: in real
// mode at 0x200, in 32 bits at the start of the part that is loaded high, and in 64 bits
// 0x200 after that. The header is that of the Linux/x86 boot protocol 2.12.
func idleKernel() []byte {
	b := bytes.Repeat([]byte{0xeb, 0xfe}, 32<<10)
	clear(b[:0x200])
	clear(b[0x202:0x400])
	little := binary.LittleEndian
	b[0x1f1] = 1 // sectors of setup, without the first
	little.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	little.PutUint16(b[0x206:], 0x20c)
	b[0x211] = 1                               // loaded high
	little.PutUint32(b[0x214:], 0x100000)      // to there
	little.PutUint32(b[0x22c:], 0x7fffffff)    // as far as an initrd may go
	little.PutUint32(b[0x230:], 0x200000)      // alignment
	b[0x234] = 1                               // relocatable
	little.PutUint16(b[0x236:], 1)             // has the 64-bit entry
	little.PutUint32(b[0x238:], 2047)          // longest command line
	little.PutUint64(b[0x258:], 0x1000000)     // preferred address
	little.PutUint32(b[0x260:], uint32(1<<20)) // memory that it wants
	return b
}

// leaveOut removes the options that this host does not support, and logs them.
func leaveOut(t *testing.T, s *spec.Spec, argv []string) []string {
	t.Helper()
	drop := func(why string, option string, match func(value string) bool) {
		for i := len(argv) - 2; i > 0; i-- {
			if argv[i] == option && match(argv[i+1]) {
				t.Logf("LEFT OUT: %s %s, for %s", argv[i], argv[i+1], why)
				argv = slices.Delete(argv, i, i+2)
			}
		}
	}
	all := func(string) bool { return true }
	if _, err := os.Stat("/dev/vhost-vsock"); err != nil && s.Hypervisor != "cloud-hypervisor" {
		drop("/dev/vhost-vsock is missing", "--vsock", all)
		drop("/dev/vhost-vsock is missing", "-device", func(v string) bool { return strings.HasPrefix(v, "vhost-vsock-") })
	}
	drop("no process serves a GPU", "--vhost-user", func(v string) bool { return strings.HasPrefix(v, "type=gpu,") })
	for _, option := range []string{"--vfio-pci", "--vfio", "--device"} {
		drop("there is no such card", option, all)
	}
	// In the version of start.landlockABI.
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if at := slices.Index(argv, "--landlock"); at > 0 && (errno != 0 || abi < 3) {
		t.Logf("LEFT OUT: %q, for the kernel has no Landlock", argv[at:])
		argv = argv[:at]
	}
	if s.HugepageMem && freeHugePages()*2 < s.Mem {
		t.Log("LEFT OUT: hugepages=on, for too few huge pages are free; reserve them with sysctl vm.nr_hugepages")
		argv = replaced(argv, ",hugepages=on", "")
	}
	if s.Hypervisor == "alioth" && len(s.Shares) > 0 && !rustVirtiofsd(t) {
		drop("QEMU's own virtiofsd of old does not speak with alioth", "--fs", all)
	}
	if s.Hypervisor == "kvmtool" {
		drop("udev makes no macvtap device in a namespace", "-n", func(v string) bool { return strings.Contains(v, "@{macvtap-device:") })
	}
	return argv
}

// rustVirtiofsd reports whether the virtiofsd is the one written in Rust.
func rustVirtiofsd(t *testing.T) bool {
	t.Helper()
	help, err := exec.Command(need.Program(t, "virtiofsd"), "--help").CombinedOutput()
	return err == nil && bytes.Contains(help, []byte("--shared-dir"))
}

// start starts the program, with more arguments, and ends it. It succeeds if the program
// still runs after a while, or exited because of the guest.
func (r *realTrial) start(more []string) error {
	return inNetworkNamespace(func() error {
		if err := ownSysfs(); err != nil {
			return err
		}
		for _, tap := range r.plan.Taps {
			if err := makeTap(tap); err != nil {
				return err
			}
		}
		return r.run(more)
	})
}

// ownSysfs shows the namespace's interfaces in /sys, where StratoVirt looks.
func ownSysfs() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

// makeTap creates a persistent tap.
func makeTap(tap hypervisor.Tap) error {
	args := []string{"tuntap", "add", "dev", tap.ID, "mode", "tap", "vnet_hdr"}
	if tap.MultiQueue {
		args = append(args, "multi_queue")
	}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %q: %w: %s", args, err, out)
	}
	return nil
}

// settles is the time after which a running program has accepted its command line.
const settles = 1500 * time.Millisecond

func (r *realTrial) run(more []string) error {
	r.files = nil
	argv, err := r.argv()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range r.files {
			_ = f.Close()
		}
	}()
	master, slave, err := terminal()
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(master.Close(), slave.Close()) }()
	cmd := exec.Command(r.program, append(argv[1:], more...)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, &out, &out
	cmd.Dir, cmd.ExtraFiles = r.dir, r.files
	cmd.Env = append(os.Environ(), r.plan.Env...)
	cmd.WaitDelay = time.Second
	for _, stale := range r.plan.StaleSockets {
		_ = os.Remove(filepath.Join(r.dir, stale))
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if r.real.noKernel != "" {
		return r.wantNoKernel(cmd, ended, &out, argv)
	}
	select {
	case err := <-ended:
		if err == nil || r.real.noKVM != "" && strings.Contains(out.String(), r.real.noKVM) {
			return nil // its guest was over soon, or could not run at all
		}
		return fmt.Errorf("%s exited at once (%w):\n%s\ncommand line:\n%s", r.program, err, out.String(), strings.Join(argv, "\n"))
	case <-time.After(settles):
		_ = cmd.Process.Kill()
		<-ended
		return nil
	}
}

// wantNoKernel waits for a program that must refuse only its kernel.
func (r *realTrial) wantNoKernel(cmd *exec.Cmd, ended <-chan error, out *bytes.Buffer, argv []string) error {
	const patience = 2 * time.Minute
	select {
	case <-ended:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-ended
	}
	if strings.Contains(out.String(), r.real.noKernel) {
		return nil
	}
	return fmt.Errorf("%s: no %q about its kernel in:\n%s\ncommand line:\n%s", r.program, r.real.noKernel, out.String(), strings.Join(argv, "\n"))
}

// terminal is a pseudoterminal, pts(4).
func terminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		return nil, nil, errors.Join(errno, master.Close())
	}
	return master, os.NewFile(fd, "terminal"), nil
}
