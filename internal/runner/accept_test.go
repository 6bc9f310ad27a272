package runner

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/hypervisor"
	"microvm/internal/spec"
	"microvm/test/need"
)

// TestQEMUAcceptsEveryCommandLine starts the QEMU of the test hosts, with its CPUs
// stopped, on each command line of the golden files, and has it confirm by QMP.
func TestQEMUAcceptsEveryCommandLine(t *testing.T) {
	for _, name := range specNames(t) {
		s := readSpec(t, name)
		if s.Hypervisor != "qemu" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			q := newTrial(t, s)
			if err := inNetworkNamespace(q.run); err != nil {
				t.Error(err)
			}
		})
	}
}

// trial is one start of QEMU.
type trial struct {
	spec    *spec.Spec
	plan    *hypervisor.Plan
	program string
	dir     string
	files   []*os.File
}

// newTrial creates what the command line names, or skips if this host does not support it.
func newTrial(t *testing.T, s *spec.Spec) *trial {
	t.Helper()
	program := need.Program(t, "qemu-system-"+s.Arch)
	if why := missingOnHost(s); why != "" {
		t.Skip("SKIPPED: " + why)
	}
	// A socket's path must be short, and that of t.TempDir is not.
	dir, err := os.MkdirTemp("", "q")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	q := &trial{spec: s, program: program, dir: dir}
	major, minor := qemuVersion(t, program)
	if q.plan, err = withQEMU(major, minor).Compile(s); err != nil {
		t.Fatal(err)
	}
	q.plan.Argv = without(t, s, q.plan.Argv)
	q.populate(t)
	q.serveShares(t)
	return q
}

// missingOnHost returns what the host lacks for s.
func missingOnHost(s *spec.Spec) string {
	for _, n := range s.Interfaces {
		if n.Type == "bridge" && need.Host() == "" {
			return "qemu-bridge-helper wants a bridge that /etc/qemu/bridge.conf allows; this is shown in the container host"
		}
		if n.Type != "user" && os.Geteuid() != 0 {
			return "making a tap needs root"
		}
	}
	if s.Graphics.Enable {
		return "graphics want a GPU or a display"
	}
	return ""
}

// without removes the parts of a command line that the host's kernel does not support, and
// logs them.
func without(t *testing.T, s *spec.Spec, argv []string) []string {
	t.Helper()
	missing := func(path string) bool {
		_, err := os.Stat(path)
		return err != nil
	}
	vhostNet := slices.ContainsFunc(s.Interfaces, func(n spec.Interface) bool { return n.Tap.Vhost })
	if vhostNet && missing("/dev/vhost-net") {
		t.Log("LEFT OUT: vhost=on, for /dev/vhost-net is missing; load module vhost_net")
		argv = replaced(argv, ",vhost=on", "")
	}
	if s.HugepageMem && freeHugePages()*2 < s.Mem {
		t.Log("LEFT OUT: hugetlb=on, for too few huge pages are free; reserve them with sysctl vm.nr_hugepages")
		argv = replaced(argv, ",hugetlb=on", "")
	}
	if s.Vsock.CID != nil && missing("/dev/vhost-vsock") {
		t.Log("LEFT OUT: vhost-vsock, for /dev/vhost-vsock is missing; load module vhost_vsock")
		at := slices.IndexFunc(argv, func(a string) bool { return strings.HasPrefix(a, "vhost-vsock-") })
		argv = slices.Delete(argv, at-1, at+1)
	}
	return argv
}

func replaced(argv []string, from, to string) []string {
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], from, to)
	}
	return argv
}

func freeHugePages() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`HugePages_Free:\s+([0-9]+)`).FindSubmatch(data)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return 0
	}
	return n
}

func qemuVersion(t *testing.T, program string) (major, minor int) {
	t.Helper()
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(out), "QEMU emulator version %d.%d", &major, &minor); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return major, minor
}

// populate creates the files that the specs have in /srv/vm, below dir.
func (q *trial) populate(t *testing.T) {
	t.Helper()
	for _, d := range []string{"store", "work", "home", "empty"} {
		if err := os.Mkdir(filepath.Join(q.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{
		"vmlinuz": bootSector(), "initrd": make([]byte, 4096), "store, read only.img": make([]byte, 1<<20),
		"token": []byte("secret"), "token,1": []byte("secret"), "keys": []byte("keys"),
	} {
		if err := os.WriteFile(filepath.Join(q.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range q.spec.Volumes {
		q.image(t, v)
	}
}

func (q *trial) image(t *testing.T, v spec.Volume) {
	t.Helper()
	path := filepath.Join(q.dir, filepath.Base(v.Image))
	if v.ImageType == "raw" {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	format := map[string]string{"vhd": "vpc"}[v.ImageType]
	if format == "" {
		format = v.ImageType
	}
	out, err := exec.Command(need.Program(t, "qemu-img"), "create", "-f", format, path, "1M").CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
}

// bootSector is as much of an x86 kernel as QEMU looks at before it starts the
// CPUs: the header of the Linux/x86 boot protocol 2.2.
func bootSector() []byte {
	b := make([]byte, 16<<10)
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS")
	b[0x206], b[0x207] = 2, 2
	b[0x211] = 1 // loaded high
	return b
}

// serveShares starts a virtiofsd for each virtiofs share.
func (q *trial) serveShares(t *testing.T) {
	t.Helper()
	for _, s := range q.plan.Shares {
		program := need.Program(t, "virtiofsd")
		help, err := exec.Command(program, "--help").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"--socket-path=" + filepath.Join(q.dir, s.Socket), "-o", "source=" + q.dir, "-o", "sandbox=chroot"}
		if bytes.Contains(help, []byte("--shared-dir")) {
			args = []string{"--socket-path=" + filepath.Join(q.dir, s.Socket), "--shared-dir=" + q.dir, "--sandbox=none"}
		}
		cmd := exec.Command(program, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		if !appears(filepath.Join(q.dir, s.Socket)) {
			t.Fatalf("%s %q makes no socket", program, args)
		}
	}
}

func appears(path string) bool {
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// inNetworkNamespace calls f on a thread with its own network namespace, which ends with it.
// Without root it only calls f.
func inNetworkNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil && os.Geteuid() == 0 {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// bridges creates the bridges of the spec in this network namespace and allows QEMU's helper
// to use them: a test host is thrown away.
func (q *trial) bridges() error {
	for _, n := range q.spec.Interfaces {
		if n.Type != "bridge" || n.Bridge == nil {
			continue
		}
		if out, err := exec.Command("ip", "link", "add", *n.Bridge, "type", "bridge").CombinedOutput(); err != nil {
			return fmt.Errorf("make bridge %s: %w: %s", *n.Bridge, err, out)
		}
		const allowed = "/etc/qemu/bridge.conf"
		err := os.MkdirAll(filepath.Dir(allowed), 0o755)
		if err == nil {
			err = os.WriteFile(allowed, []byte("allow "+*n.Bridge+"\n"), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run starts QEMU and ends it.
func (q *trial) run() error {
	argv, err := q.argv()
	if err != nil {
		return err
	}
	if err := q.bridges(); err != nil {
		return err
	}
	defer func() {
		for _, f := range q.files {
			_ = f.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.program, append(argv[1:], "-S")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir, cmd.ExtraFiles = q.dir, q.files
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err = q.confirm(ctx, ended)
	_ = cmd.Process.Kill()
	if err != nil && len(q.plan.PCI) > 0 && strings.Contains(out.String(), q.plan.PCI[0].Address) {
		return nil // the host has no such card, and QEMU complains of nothing else
	}
	if err != nil {
		return fmt.Errorf("%w; it says:\n%s\ncommand line:\n%s", err, out.String(), strings.Join(argv, "\n"))
	}
	return nil
}

// confirm checks by QMP that QEMU waits to start.
func (q *trial) confirm(ctx context.Context, ended <-chan error) error {
	if q.spec.Socket.Value == nil {
		select {
		case err := <-ended:
			return fmt.Errorf("QEMU ended: %w", err)
		case <-time.After(time.Second):
			return nil
		}
	}
	for {
		client, err := control.DialQMP(ctx, q.dir, *q.spec.Socket.Value)
		if err == nil {
			defer func() { _ = client.Close() }()
			var status struct {
				Status string `json:"status"`
			}
			if err := client.Execute(ctx, "query-status", nil, &status); err != nil {
				return err
			}
			if status.Status != "prelaunch" {
				return fmt.Errorf("QEMU is %s, not prelaunch", status.Status)
			}
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("QEMU ended: %w", err)
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// argv returns the command line with its placeholders expanded and /srv/vm replaced by the
// test's directory.
func (q *trial) argv() ([]string, error) {
	argv := slices.Clone(q.plan.Argv)
	for i, arg := range argv {
		var err error
		if argv[i], err = hypervisor.Expand(arg, q.value); err != nil {
			return nil, err
		}
	}
	return replaced(argv, "/srv/vm", q.dir), nil
}

func (q *trial) value(name string) (string, error) {
	switch name {
	case "notify-port":
		return "1025", nil
	case "tsc-khz", "tsc-khz-without-kvm":
		return "0", nil
	case "shutdown-key":
		return "c3NoLWVkMjU1MTkgQUFBQQ==", nil
	}
	// An open tap behaves like a macvtap.
	id := strings.Split(name, ":")[1]
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/net/tun: %w", err)
	}
	q.files = append(q.files, os.NewFile(uintptr(fd), name))
	request, err := unix.NewIfreq(id)
	if err != nil {
		return "", err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if q.spec.VCPU > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return "", fmt.Errorf("make tap %s: %w", id, err)
	}
	const firstExtraFile = 3 // os/exec
	return strconv.Itoa(firstExtraFile + len(q.files) - 1), nil
}
