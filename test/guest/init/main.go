// Command init is PID 1 of the test guest: it mounts what the kernel's command
// line names, sets its addresses, prints what it sees, says READY=1 over vsock
// where the host listens, and on ctrl-alt-del or the power button writes a
// marker to its first volume, syncs and goes down.
//
// Words of the command line:
//
//	mvguest.ip=ADDRESS/LENGTH[,MAC]      address of the first interface, or of that with MAC
//	mvguest.mount=SOURCE:PATH:TYPE[:ro]  SOURCE is a label (ext4), a tag (9p, virtiofs) or a device
//	mvguest.ignore-shutdown              do not react to requests to go down
//	mvguest.reboot-after=SECONDS         reboot by itself, once a volume has no file "rebooted"
//	mvguest.notify-count=N               send N STATUS lines first, and print the median times
//	mvguest.never-ready                  do not say READY=1
//	mvguest.ping=ADDRESS                 send pings there and print whether an answer came
//	mvguest.read=PATH                    print a file
//	mvguest.write=PATH                   write a file and print whether that worked
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	say("test guest starts")
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount kernel file systems", mountKernel},
		{"load modules", loadModules},
		{"wait for the keyboard", awaitKeyboard},
		{"catch ctrl-alt-del", catchKeys},
		{"mount", mountAll},
		{"set addresses", setAddresses},
		{"start sshd", startSSHD},
	} {
		if err := step.do(); err != nil {
			say("FAILED: %s: %v", step.name, err)
		}
	}
	report()
	useFiles()
	go serveConsole()
	go later()
	go watchMemory()
	if err := notifyHost(); err != nil {
		say("FAILED: notify: %v", err)
	}
	say("test guest is up after %s", uptime())
	goDown(<-requests)
}

// ctrlAltDel is what the kernel sends to process 1, reboot(2).
const ctrlAltDel = "signal interrupt"

// requests carries what makes the guest go down.
var requests = make(chan string, 4)

func say(format string, args ...any) {
	fmt.Printf("mvguest: "+format+"\n", args...)
}

func uptime() string {
	data, _ := os.ReadFile("/proc/uptime")
	seconds, _, _ := strings.Cut(string(data), " ")
	return seconds + " s"
}

// words returns the values of a word of the kernel's command line; a word
// without a value has the value "".
func words(name string) []string {
	data, _ := os.ReadFile("/proc/cmdline")
	var out []string
	for _, w := range strings.Fields(string(data)) {
		key, value, _ := strings.Cut(w, "=")
		if key == "mvguest."+name {
			out = append(out, value)
		}
	}
	return out
}

func has(name string) bool { return len(words(name)) > 0 }

func mountKernel() error {
	for _, m := range [][3]string{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/run", "tmpfs"},
	} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("%s: %w", m[1], err)
		}
	}
	return nil
}

// loadModules loads /modules in the order that the names give.
func loadModules() error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, f := range files {
		module, err := os.Open(f)
		if err != nil {
			return err
		}
		// One that has no device here may refuse.
		if err := unix.FinitModule(int(module.Fd()), parameters(f), 0); err != nil && err != unix.EEXIST && err != unix.ENODEV {
			say("module %s: %v", filepath.Base(f), err)
		}
		_ = module.Close()
	}
	return nil
}

// parameters are those that the kernel's command line has for a module, which
// only the program that loads it can pass on: modprobe.d(5).
func parameters(file string) string {
	base := strings.TrimSuffix(filepath.Base(file), ".ko")
	_, name, _ := strings.Cut(base, "-") // behind the number of its turn
	prefix := strings.ReplaceAll(name, "-", "_") + "."
	data, _ := os.ReadFile("/proc/cmdline")
	var out []string
	for _, w := range strings.Fields(string(data)) {
		if value, ok := strings.CutPrefix(w, prefix); ok {
			out = append(out, value)
		}
	}
	return strings.Join(out, " ")
}

// awaitKeyboard waits until the kernel has set up a keyboard that it has found, which
// it does aside. It asks the keyboard what it is meanwhile, and takes a key that is
// pressed then for the answer, so that it ends up without one.
func awaitKeyboard() error {
	if _, err := os.Stat("/sys/bus/platform/drivers/i8042/i8042"); err != nil {
		return nil // no such controller
	}
	for range 1000 {
		ports, _ := filepath.Glob("/sys/bus/serio/devices/serio*/description")
		for _, port := range ports {
			text, _ := os.ReadFile(port)
			inputs, _ := filepath.Glob(filepath.Dir(port) + "/input/input*")
			if strings.Contains(string(text), "KBD") && len(inputs) > 0 {
				return nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	say("no keyboard came up")
	return nil
}

// catchKeys asks the kernel for SIGINT on ctrl-alt-del, reboot(2), and for the
// power button's key from every input device.
func catchKeys() error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPWR)
	go func() {
		for s := range signals {
			request("signal " + s.String())
		}
	}()
	go watchButtons()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
}

func request(what string) {
	if has("ignore-shutdown") {
		say("ignoring %s", what)
		return
	}
	requests <- what
}

// watchButtons reads KEY_POWER from the input devices, linux/input.h.
func watchButtons() {
	const keyPower, evKey, size = 116, 1, 24
	seen := map[string]bool{}
	for {
		files, _ := filepath.Glob("/dev/input/event*")
		for _, f := range files {
			if seen[f] {
				continue
			}
			seen[f] = true
			device, err := os.Open(f)
			if err != nil {
				continue
			}
			go func() {
				buf := make([]byte, size)
				for {
					if _, err := device.Read(buf); err != nil {
						return
					}
					kind := uint16(buf[16]) | uint16(buf[17])<<8
					code := uint16(buf[18]) | uint16(buf[19])<<8
					if kind == evKey && code == keyPower && buf[20] == 1 {
						request("the power button")
					}
				}
			}()
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// volumes are the writable mount points, in order.
var volumes []string

func mountAll() error {
	var errs []string
	for _, w := range words("mount") {
		if err := mountOne(w); err != nil {
			errs = append(errs, fmt.Sprintf("%s: %v", w, err))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%s", strings.Join(errs, "; "))
	}
	return nil
}

func mountOne(word string) error {
	parts := strings.Split(word, ":")
	if len(parts) < 3 {
		return fmt.Errorf("want SOURCE:PATH:TYPE")
	}
	source, path, kind := parts[0], parts[1], parts[2]
	readOnly := len(parts) > 3 && parts[3] == "ro"
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	var flags uintptr
	if readOnly {
		flags = unix.MS_RDONLY
	}
	options := ""
	switch kind {
	case "9p":
		options = "trans=virtio,version=9p2000.L"
	case "virtiofs":
	default:
		device, err := findLabel(source)
		if err != nil {
			return err
		}
		source = device
	}
	if err := unix.Mount(source, path, kind, flags, options); err != nil {
		return err
	}
	if !readOnly && kind != "9p" && kind != "virtiofs" {
		volumes = append(volumes, path)
	}
	say("mounted %s at %s", word, path)
	return nil
}

// findLabel finds the disk with an ext file system of that label, or takes a
// path as it is. The label is 16 bytes at 120 of the superblock at 1024,
// Documentation/filesystems/ext4.
func findLabel(label string) (string, error) {
	if strings.HasPrefix(label, "/") {
		return label, nil
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		disks, _ := filepath.Glob("/dev/vd*")
		for _, d := range disks {
			f, err := os.Open(d)
			if err != nil {
				continue
			}
			buf := make([]byte, 16)
			_, err = f.ReadAt(buf, 1024+120)
			_ = f.Close()
			if err == nil && strings.TrimRight(string(buf), "\x00") == label {
				return d, nil
			}
		}
	}
	return "", fmt.Errorf("no disk has label %q", label)
}

// memory is what the kernel has to give away, in MiB, the balloon's taken off.
func memory() int {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	return int(info.Totalram * uint64(info.Unit) >> 20)
}

// available is what programs could have of it, in MiB. What a balloon holds is not
// in it, whether or not the driver takes it off the total, which it does not where it
// gives memory back by itself (VIRTIO_BALLOON_F_DEFLATE_ON_OOM).
func available() int {
	text, _ := os.ReadFile("/proc/meminfo")
	var kilobytes int
	if _, after, ok := strings.Cut(string(text), "MemAvailable:"); ok {
		_, _ = fmt.Sscan(after, &kilobytes)
	}
	return kilobytes >> 10
}

// watchMemory says when a balloon has taken or given.
func watchMemory() {
	for last := 0; ; time.Sleep(500 * time.Millisecond) {
		if now := available(); now > last+8 || now < last-8 {
			say("memory=%dMiB available=%dMiB", memory(), now)
			last = now
		}
	}
}

// report prints what the host's tests look for.
func report() {
	cpus, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*")
	say("cpus=%d memory=%dMiB", len(cpus), memory())
	nics, _ := filepath.Glob("/sys/class/net/*")
	for _, n := range nics {
		mac, _ := os.ReadFile(n + "/address")
		queues, _ := filepath.Glob(n + "/queues/rx-*")
		say("interface %s mac=%s queues=%d", filepath.Base(n), strings.TrimSpace(string(mac)), len(queues))
	}
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	for _, d := range devices {
		vendor, _ := os.ReadFile(d + "/vendor")
		device, _ := os.ReadFile(d + "/device")
		say("pci %s %s:%s", filepath.Base(d), strings.TrimSpace(string(vendor)), strings.TrimSpace(string(device)))
	}
	for _, v := range volumes {
		if data, err := os.ReadFile(v + "/shutdown-marker"); err == nil {
			say("found marker on %s: %s", v, strings.TrimSpace(string(data)))
		}
	}
}

// useFiles reads and writes what the command line names.
func useFiles() {
	for _, path := range words("read") {
		data, err := os.ReadFile(path)
		say("read %s: %q (%v)", path, data, err)
	}
	for _, path := range words("write") {
		say("write %s: (%v)", path, writeSynced(path, "from the guest\n"))
	}
}

// writeSynced writes a file that stays when the power goes.
func writeSynced(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// later makes the guest go down by itself where the command line says so.
func later() {
	for _, w := range words("reboot-after") {
		seconds, err := strconv.ParseFloat(w, 64)
		if err != nil {
			continue
		}
		for _, v := range volumes {
			flag := v + "/rebooted"
			if _, err := os.Stat(flag); err == nil {
				return
			}
			_ = os.WriteFile(flag, []byte("yes\n"), 0o644)
		}
		time.Sleep(time.Duration(seconds * float64(time.Second)))
		requests <- "reboot-after"
	}
}

// goDown leaves a marker, syncs and ends the machine.
func goDown(why string) {
	say("going down: %s", why)
	for _, v := range volumes {
		if err := writeMarker(v, why); err != nil {
			say("FAILED: marker on %s: %v", v, err)
			continue
		}
		say("marker written and synced to %s", v)
		break
	}
	unix.Sync()
	for _, v := range volumes {
		if err := unix.Unmount(v, 0); err != nil {
			say("unmount %s: %v", v, err)
		}
	}
	// As systemd's ctrl-alt-del.target, which is reboot.target; Firecracker, whose
	// machine cannot be turned off, counts on that.
	if hasButton() && why != "reboot-after" && why != ctrlAltDel {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// hasButton reports whether ACPI can turn the machine off.
func hasButton() bool {
	_, err := os.Stat("/sys/firmware/acpi/tables/FACP")
	return err == nil && !has("no-acpi-off")
}

func writeMarker(volume, why string) error {
	f, err := os.Create(volume + "/shutdown-marker")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "went down after %s: %s\n", uptime(), why)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// serveConsole answers commands on the console, one a line.
func serveConsole() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command(strings.Fields(lines.Text()))
	}
}

func command(w []string) {
	if len(w) == 0 {
		return
	}
	switch {
	case w[0] == "echo":
		fmt.Println(strings.Join(w[1:], " "))
	case w[0] == "cat" && len(w) == 2:
		data, err := os.ReadFile(w[1])
		fmt.Printf("%s(%v)\n", data, err)
	case w[0] == "ls" && len(w) == 2:
		entries, err := os.ReadDir(w[1])
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		fmt.Printf("(%v)\n", err)
	case w[0] == "write" && len(w) > 2:
		fmt.Printf("wrote (%v)\n", os.WriteFile(w[1], []byte(strings.Join(w[2:], " ")+"\n"), 0o644))
	case w[0] == "mknod" && len(w) == 2:
		fmt.Printf("mknod (%v)\n", unix.Mknod(w[1], unix.S_IFBLK|0o666, int(unix.Mkdev(8, 0))))
	case w[0] == "setuid" && len(w) == 2:
		err := os.WriteFile(w[1], []byte("#!/bin/sh\n"), 0o755)
		fmt.Printf("setuid (%v) (%v)\n", err, unix.Chmod(w[1], 0o4755))
	case w[0] == "down":
		requests <- "console"
	default:
		fmt.Printf("unknown: %s\n", strings.Join(w, " "))
	}
}
