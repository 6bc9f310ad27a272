package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	vmTimeout = 55 * time.Minute
	// exitWord comes before the exit code on the output of a VM.
	exitWord = "MICROVM-TEST-EXIT "
)

// bootScript runs in the VM host, from the payload's disk. It keeps a VM of KVM,
// without CPUs, for as long as the host is up: with the first VM that is made, and
// the last one that goes, the kernel patches its scheduler, and a processor that
// QEMU emulates may run the old code a moment longer, which brings the kernel down.
const bootScript = `exec >/dev/virtio-ports/test 2>&1
cp -a /payload/root/. /
udevadm control --reload
systemd-sysusers
systemd-tmpfiles --create
for m in kvm_amd kvm_intel tun vhost_net vhost_vsock macvtap vfio_pci bridge dummy loop; do modprobe -q $m; done
udevadm trigger --subsystem-match=misc --settle
if [ -e /dev/kvm ]; then perl -e 'open(K, "+<", "/dev/kvm") && ioctl(K, 0xae01, 0) or die "KVM_CREATE_VM: $!"; sleep' & fi
systemctl daemon-reload
export MICROVM_TEST_HOST=vm HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
while sleep 20; do echo "` + aliveWord + `"; done &
/bin/sh /payload/command
echo "` + exitWord + `$?"
sync
reboot -f
`

// inVM boots the root with payload laid over it in QEMU and runs command
// inside, as root.
func inVM(ctx context.Context, r root, payload string, command []string) (code int, err error) {
	work, err := os.MkdirTemp("/var/tmp", "microvm-vm-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	base, err := r.image()
	if err != nil {
		return 0, err
	}
	disk := filepath.Join(work, "payload.img")
	stage := filepath.Join(work, "payload")
	guest, err := debianGuest()
	if err != nil {
		return 0, err
	}
	err = errors.Join(
		os.Mkdir(stage, 0o755),
		run("cp", "-a", guest, filepath.Join(stage, "debian")),
		run("cp", "-a", payload, filepath.Join(stage, "root")),
		os.WriteFile(filepath.Join(stage, "boot"), []byte(bootScript), 0o644),
	)
	if err != nil {
		return 0, err
	}
	v := &vmHost{root: r, base: base, disk: disk, console: filepath.Join(work, "console")}
	for boots := 1; ; boots++ {
		err := errors.Join(
			os.WriteFile(filepath.Join(stage, "command"), []byte(shell(v.without(command))), 0o644),
			run("mke2fs", "-q", "-F", "-t", "ext4", "-d", stage, disk, "2G"),
		)
		if err != nil {
			return 0, err
		}
		code, err := v.boot(ctx)
		// An emulated CPU that itself emulates virtualization brings the kernel
		// down now and then, whoever runs the VMs: that says nothing about them. On a
		// real one the VMs are to blame.
		var down *kernelDownError
		switch {
		case errors.As(err, &down) && emulated() && boots < maxBoots && ctx.Err() == nil:
			fmt.Fprintf(os.Stderr, "==> %v\n==> on with the other tests, in a new VM host\n", down)
		default:
			if err == nil && v.failed {
				code = max(code, 1)
			}
			return code, err
		}
	}
}

// accelerator is QEMU's -accel for a VM host. It is chosen by name,
// MICROVM_TEST_ACCEL: a /dev/kvm that opens may still boot nothing.
func accelerator() string {
	return cmp.Or(os.Getenv("MICROVM_TEST_ACCEL"), "tcg,thread=multi")
}

// emulated reports whether a VM host's CPU is emulated.
func emulated() bool { return strings.HasPrefix(accelerator(), "tcg") }

// maxBoots is up to how many boots of a VM host its emulated CPU may bring its kernel
// down.
const maxBoots = 3

// aliveWord is what a VM host prints every 20 s while it is alive, whatever its tests
// do.
const aliveWord = "MICROVM-TEST-ALIVE"

const (
	// longestBoot is how long a VM host may take until it prints something, on a
	// machine that is busy with something else.
	longestBoot = 15 * time.Minute
	// longestSilence is many times what lies between two lines then.
	longestSilence = 5 * time.Minute
)

var errSilent = errors.New("the VM host prints nothing any more")

// kernelDownError is returned when the VM host's own kernel went down.
type kernelDownError struct{ how, console string }

// Error implements error.
func (e *kernelDownError) Error() string {
	return "the kernel of the VM host " + e.how + ":\n" + e.console
}

// vmHost is a VM host, booted once or again.
type vmHost struct {
	root                root
	base, disk, console string
	// passed are the tests that have passed so far, failed is whether one did not:
	// it is not retried.
	passed []string
	failed bool
}

// result takes note of how a test ended, in go test's words.
func (v *vmHost) result(line string) {
	if rest, ok := strings.CutPrefix(line, "--- PASS: "); ok {
		name, _, _ := strings.Cut(rest, " ")
		v.passed = append(v.passed, name)
	}
	v.failed = v.failed || strings.HasPrefix(line, "--- FAIL: ")
}

// without is the command, which runs test binaries, without the tests that have
// passed. Each binary gets the same list: their tests have different names.
func (v *vmHost) without(command []string) []string {
	if len(v.passed) == 0 {
		return command
	}
	return append(slices.Clone(command), "-test.skip", "^("+strings.Join(v.passed, "|")+")$")
}

// shell quotes words for sh.
func shell(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ") + "\n"
}

// image is the root as a disk image, cached.
func (r root) image() (string, error) {
	image := filepath.Join(r.dir, "root.img")
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	return image, step("make a disk image of the root (once)", func() error {
		if err := run("mke2fs", "-q", "-t", "ext4", "-d", r.tree, image+".new", "6G"); err != nil {
			return err
		}
		return os.Rename(image+".new", image)
	})
}

// boot runs the VM until its payload has ended.
func (v *vmHost) boot(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, vmTimeout)
	defer cancel()
	// Its processor may get stuck as well as bring its kernel down, and no test in
	// it would ever time out.
	ctx, hung := context.WithCancelCause(ctx)
	defer hung(nil)
	silence := time.AfterFunc(longestBoot, func() { hung(errSilent) })
	defer silence.Stop()
	vmlinuz, initrd, err := v.root.kernel()
	if err != nil {
		return 0, err
	}
	// The root's own, which is the same on every machine: an older one brings the
	// kernels of VMs in this VM down now and then.
	inside := strings.NewReplacer(v.root.tree+"/", "/", v.root.dir, cacheInside, filepath.Dir(v.disk), workInside)
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--", "/bin/sh", "-euc", inRoot, "sh", v.root.tree, v.root.dir, filepath.Dir(v.disk)}, each(inside.Replace,
		// It takes longest, and mostly computes: whatever runs beside it waits for it.
		"nice", "-n", "-10", "qemu-system-x86_64", "-M", "q35,kernel-irqchip=split", "-accel", accelerator(), "-cpu", "max", "-smp", "1", "-m", "3G",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-device", "intel-iommu,intremap=on",
		"-kernel", vmlinuz, "-initrd", initrd,
		// no_timer_check: on a busy machine an emulated timer ticks too late for the
		// kernel, which panics then (Documentation/admin-guide/kernel-parameters.txt).
		"-append", "root=/dev/vda rw console=ttyS0 quiet intel_iommu=on no_timer_check microvm.payload systemd.show_status=0 panic=-1",
		"-serial", "file:"+v.console,
		"-drive", "if=none,id=root,format=raw,snapshot=on,cache=unsafe,file="+v.base, "-device", "virtio-blk-pci,drive=root",
		"-drive", "if=none,id=payload,format=raw,readonly=on,file="+v.disk, "-device", "virtio-blk-pci,drive=payload",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=test,signal=off", "-device", "virtserialport,chardev=test,name=test",
		"-device", "virtio-rng-pci",
		// A card to pass through, behind a port of its own, and a second one
		// on the same wire.
		"-netdev", "hubport,id=wire0,hubid=0", "-netdev", "hubport,id=wire1,hubid=0",
		"-device", "pcie-root-port,id=port1,chassis=1", "-device", "e1000e,bus=port1,netdev=wire0,mac=52:54:00:00:00:01",
		"-device", "pcie-root-port,id=port2,chassis=2", "-device", "virtio-net-pci,bus=port2,netdev=wire1,mac=52:54:00:00:00:02",
	)...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	// Held open: once it is closed QEMU treats the port as disconnected, and the guest
	// waits for a connection before it writes.
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	fmt.Fprintln(os.Stderr, "==> boot the VM host (about half a minute under emulation)")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	code := -1
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimSuffix(lines.Text(), "\r")
		silence.Reset(longestSilence)
		if text == aliveWord {
			continue
		}
		if status, ok := strings.CutPrefix(text, exitWord); ok {
			if code, err = strconv.Atoi(status); err != nil {
				code = -1
			}
			continue
		}
		v.result(text)
		fmt.Println(text)
	}
	err = cmd.Wait()
	if code >= 0 {
		return code, nil
	}
	text, _ := os.ReadFile(v.console)
	if errors.Is(context.Cause(ctx), errSilent) {
		return 0, &kernelDownError{"got stuck", tail(string(text), 40)}
	}
	if at := strings.Index(string(text), "Kernel panic - not syncing"); at >= 0 {
		return 0, &kernelDownError{"panicked", tail(string(text[:at]), 40) + string(text[at:])}
	}
	if err == nil && ctx.Err() == nil && !strings.Contains(string(text), "reboot: ") {
		// The machine was reset, and no reboot was announced: a triple fault.
		return 0, &kernelDownError{"reset the machine", tail(string(text), 40)}
	}
	return 0, fmt.Errorf("the VM host ended without a result (%w):\n%s", errors.Join(errors.New("QEMU exited"), err, ctx.Err()), tail(string(text), 40))
}

const (
	// cacheInside and workInside are where a program in the root finds the directory
	// of the root, and that of a VM host.
	cacheInside, workInside = "/media", "/mnt"
	// inRoot runs a program of a root there: TREE CACHE WORK PROGRAM ARGUMENT….
	inRoot = `tree=$1; mount --rbind /dev "$tree/dev"; mount -t proc proc "$tree/proc"
mount --bind "$2" "$tree` + cacheInside + `"; mount --bind "$3" "$tree` + workInside + `"
shift 3
exec chroot "$tree" "$@"`
)

func each(change func(string) string, words ...string) []string {
	for i, w := range words {
		words[i] = change(w)
	}
	return words
}

func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
