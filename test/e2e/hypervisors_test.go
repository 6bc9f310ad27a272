package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// hypervisorsDir holds bin/PROGRAM of the hypervisors that MICROVM_TEST_HYPERVISORS
// named outside.
const hypervisorsDir = assets + "/hypervisors"

// programs are the hypervisors' programs.
var programs = map[string]string{
	"alioth": "alioth", "cloud-hypervisor": "cloud-hypervisor", "crosvm": "crosvm",
	"firecracker": "firecracker", "kvmtool": "lkvm", "qemu": "qemu-system-x86_64", "stratovirt": "stratovirt",
}

// cases are what each hypervisor is put through, in this order.
var cases = []string{"ready", "tap", "share", "balloon", "killed", "stop", "volume", "mute"}

// TestRealHypervisors takes a VM of each hypervisor that is there through its
// life, and prints a table. Those that are not there are listed, and are no
// failure: they are in no distribution.
func TestRealHypervisors(t *testing.T) {
	in(t, "vm")
	table, err := hypervisor.Table()
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]map[string]string{}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		h := &trial{name: name, can: table[name], results: map[string]string{}}
		if h.version = h.findVersion(); h.version == "" {
			missing = append(missing, name)
			continue
		}
		t.Run(name, func(t *testing.T) { h.run(t) })
		results[name] = h.results
	}
	t.Logf("\n%snot run: %s", printTable(results), strings.Join(missing, ", "))
	for name, why := range blind {
		if results[name] != nil && (&trial{name: name}).blind() {
			t.Logf("%s: -: %s", name, why)
		}
	}
}

func printTable(results map[string]map[string]string) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	columns := append([]string{"hypervisor", "version"}, cases...)
	_, _ = fmt.Fprintln(w, strings.Join(columns, "\t"))
	for _, name := range slices.Sorted(maps.Keys(results)) {
		row := []string{name}
		for _, column := range columns[1:] {
			row = append(row, results[name][column])
		}
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return out.String()
}

// blind are hypervisors whose guests see no device here, and why: with them there
// is less to show, unless a kernel for them is next to the program.
var blind = map[string]string{
	"stratovirt": "Debian's kernel has no CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES; another one can lie beside the program, as vmlinuz-stratovirt",
}

// kernel is what was put beside the hypervisors for the guests of this one, or "".
func (h *trial) kernel() string {
	path := hypervisorsDir + "/bin/vmlinuz-" + h.name
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func (h *trial) blind() bool { return blind[h.name] != "" && h.kernel() == "" }

// trial is the life of one hypervisor's VM.
type trial struct {
	name, version string
	can           hypervisor.Capabilities
	results       map[string]string
	vm, tap       string
	// before is what the state directory held before the first start.
	before []string
}

// findVersion is what the program says of itself, "" where there is none.
func (h *trial) findVersion() string {
	program := hypervisorsDir + "/bin/" + programs[h.name]
	if h.name == "qemu" {
		program = programs[h.name]
	}
	if _, err := try("command -v " + program); err != nil {
		return ""
	}
	// StratoVirt has the option with one dash, crosvm a command.
	out, _ := try("{ " + program + " --version || " + program + " -version || " + program + " version; } 2>/dev/null | head -n 1 | grep -oE '[0-9]+\\.[0-9]+(\\.[0-9]+)?' | head -n 1")
	if out == "" {
		return "unknown"
	}
	return out
}

func (h *trial) spec() map[string]any {
	h.vm = "hv-" + h.name
	h.tap = "hv-" + h.name[:min(len(h.name), 12)]
	return spec(h.vm, func(s map[string]any) {
		if h.blind() {
			s["hypervisor"] = h.name
			s[h.name] = map[string]any{"package": hypervisorsDir}
			s["kernelParams"] = []string{}
			return
		}
		words := []string{"mvguest.mount=data:/data:ext4", "mvguest.ip=10.78.0.2/24", "mvguest.read=/data/kept", "mvguest.write=/data/kept"}
		s["hypervisor"] = h.name
		s["interfaces"] = []any{tap(h.tap, 1)}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		if kernel := h.kernel(); kernel != "" {
			s["kernel"] = kernel
		}
		if h.name != "qemu" {
			s[h.name] = map[string]any{"package": hypervisorsDir}
		}
		if h.overSSH() {
			s["initrdPath"] = assets + "/initrd-ssh"
		}
		if h.can.Vsock != "none" && h.can.Vsock != "" {
			s["vsock"] = map[string]any{"cid": 50}
		}
		s["balloon"] = h.can.Balloon
		if slices.Contains(h.can.Shares, "virtiofs") {
			s["shares"] = []any{map[string]any{"tag": "rw", "source": "/srv/hv", "proto": "virtiofs"}}
			words = append(words, "mvguest.mount=rw:/rw:virtiofs", "mvguest.read=/rw/hello", "mvguest.write=/rw/reply")
		} else if slices.Contains(h.can.Shares, "9p") {
			s["shares"] = []any{map[string]any{"tag": "rw", "source": "/srv/hv", "proto": "9p"}}
			words = append(words, "mvguest.mount=rw:/rw:9p", "mvguest.read=/rw/hello", "mvguest.write=/rw/reply")
		}
		s["kernelParams"] = words
	})
}

// run goes from case to case; without the first there are no others.
func (h *trial) run(t *testing.T) {
	h.results["version"] = h.version
	for _, c := range cases {
		h.results[c] = "not reached"
	}
	sh(t, "rm -rf /srv/hv && mkdir -p /srv/hv && echo hello > /srv/hv/hello && chown -R microvm:kvm /srv/hv")
	name := install(t, h.spec())
	h.before = h.files(t)
	steps := map[string]func(*testing.T) string{
		"ready": h.ready, "tap": h.ping, "share": h.share, "balloon": h.balloon, "killed": h.killed, "stop": h.stop, "volume": h.volume,
		"mute": h.mute,
	}
	for _, c := range cases {
		if slices.Contains([]string{"tap", "share", "balloon", "volume"}, c) && h.blind() {
			h.results[c] = "-"
			continue
		}
		h.results[c] = "FAILED"
		if ok := t.Run(c, func(t *testing.T) { h.results[c] = steps[c](t) }); !ok {
			out, _ := try("microvm show " + name + "; " + logs(name) + " -o short-monotonic | tail -80")
			t.Log(out)
			if c == "ready" {
				return
			}
		}
	}
	nothingLeft(t, name)
}

// ready starts the VM; the result is what READY=1 means for it.
func (h *trial) ready(t *testing.T) string {
	began := time.Now()
	sh(t, "systemctl start microvm@"+h.vm)
	took := time.Since(began).Round(100 * time.Millisecond)
	waitFor(t, h.vm, "test guest is up")
	h.locked(t)
	status := sh(t, "systemctl show -P StatusText microvm@"+h.vm)
	if !h.can.GuestReadiness || h.blind() {
		return "vmm, " + took.String()
	}
	if status != "test guest is up" {
		t.Errorf("the unit's status is %q, not the guest's word", status)
	}
	return fmt.Sprintf("guest, %s", took)
}

// locked looks whether somebody else could write the VM's disk: whether by a lock of
// the hypervisor's own or by one that it was left.
func (h *trial) locked(t *testing.T) {
	t.Helper()
	if h.blind() {
		return // it has no disk
	}
	f, err := os.OpenFile("/var/lib/microvms/"+h.vm+"/data.img", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a lock on the disk of the VM that runs: %v, want %v", err, unix.EAGAIN)
	}
}

func (h *trial) ping(t *testing.T) string {
	sh(t, "ip address replace 10.78.0.1/24 dev "+h.tap+" && ping -c 1 -W 10 10.78.0.2")
	return "ok"
}

func (h *trial) share(t *testing.T) string {
	if len(h.can.Shares) == 0 {
		return "none"
	}
	waitFor(t, h.vm, "write /rw/reply: (<nil>)")
	waitFor(t, h.vm, `read /rw/hello: "hello\n"`)
	if got, err := os.ReadFile("/srv/hv/reply"); err != nil || string(got) != "from the guest\n" {
		t.Errorf("the share holds %q, %v", got, err)
	}
	if slices.Contains(h.can.Shares, "virtiofs") {
		return "virtiofs"
	}
	return "9p"
}

// whole is the memory of a test's VM, in MiB, and small what a balloon leaves of it.
const whole, small = 256, 208

// balloon takes memory from the guest and gives it back: a size that is set again
// is the same size, and the hypervisor and the guest say so too.
func (h *trial) balloon(t *testing.T) string {
	if !h.can.Balloon {
		return "none"
	}
	if h.can.Control == "" {
		return "not to be set"
	}
	h.wantBalloon(t, "", whole)
	free := h.available(t)
	for range 3 {
		h.wantBalloon(t, fmt.Sprint(small), small)
		h.wantHeld(t, whole-small)
	}
	h.wantBalloon(t, "", small)
	left := h.awaitAvailable(t, func(now int) bool { return now < free-(whole-small)*3/4 && now > free-(whole-small)*3/2 })
	for word, want := range map[string]string{
		"100000": "1: microvm: the VM has 256 MiB, so its guest cannot have 100000\nmicrovm: hint: use 16 to 256, or raise mem in its spec",
		"257":    "1: microvm: the VM has 256 MiB, so its guest cannot have 257\nmicrovm: hint: use 16 to 256, or raise mem in its spec",
		"15":     "1: microvm: no guest runs in 15 MiB\nmicrovm: hint: use 16 to 256 MiB",
		"0":      "2: microvm: invalid size \"0\": must be the guest's memory in MiB, such as 256",
		"-- -1":  "2: microvm: invalid size \"-1\": must be the guest's memory in MiB, such as 256",
		"1G":     "2: microvm: invalid size \"1G\": must be the guest's memory in MiB, such as 256",
	} {
		out, err := try("microvm balloon " + h.vm + " " + word)
		if got := fmt.Sprintf("%d: %s", exitCode(err), out); got != want {
			t.Errorf("microvm balloon %s ended with\n%s\nwant\n%s", word, got, want)
		}
	}
	h.wantHeld(t, whole-small)
	h.wantBalloon(t, fmt.Sprint(whole), whole)
	h.wantHeld(t, 0)
	back := h.awaitAvailable(t, func(now int) bool { return now > free-(whole-small)/4 })
	return fmt.Sprintf("%d, %d, %d", free, left, back)
}

// wantBalloon sets a balloon, or asks for it. kvmtool cannot say what it has.
func (h *trial) wantBalloon(t *testing.T, set string, want int) {
	t.Helper()
	out, err := try("microvm balloon " + h.vm + " " + set)
	switch {
	case h.name != "kvmtool" && (err != nil || out != fmt.Sprint(want)):
		t.Errorf("microvm balloon %s: %q, %v, want %d", set, out, err, want)
	case h.name == "kvmtool" && set == "" && (err == nil || !strings.Contains(out, "hint: check in the guest")):
		t.Errorf("the balloon's size is %q, %v", out, err)
	case h.name == "kvmtool" && set != "" && (err != nil || !strings.HasPrefix(out, fmt.Sprint(want)+"\n") || !strings.Contains(out, "cannot tell")):
		t.Errorf("microvm balloon %s: %q, %v, want %d", set, out, err, want)
	}
}

// wantHeld asks the hypervisor in its own words how many MiB its balloon holds.
func (h *trial) wantHeld(t *testing.T, want int) {
	t.Helper()
	dir := "/var/lib/microvms/" + h.vm
	var held int
	var answer string
	number := func(name string) (n int) {
		if _, after, ok := strings.Cut(answer, `"`+name+`"`); ok {
			_, _ = fmt.Sscan(strings.TrimLeft(after, ": "), &n)
		}
		return n
	}
	switch h.can.Control {
	case "crosvm":
		answer = sh(t, "cd "+dir+" && "+hypervisorsDir+"/bin/crosvm balloon_stats "+h.vm+".sock 2>/dev/null")
		held = number("balloon_actual") >> 20
	case "cloud-hypervisor":
		answer = h.talk(t, "GET /api/v1/vm.info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		held = whole - number("memory_actual_size")>>20
	case "firecracker":
		answer = h.talk(t, "GET /balloon/statistics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		held = number("actual_mib")
	case "qmp":
		answer = h.talk(t, `{"execute":"qmp_capabilities"}{"execute":"query-balloon"}`)
		held = whole - number("actual")>>20
	default:
		return // kvmtool
	}
	if held != want {
		t.Errorf("%s says that its balloon holds %d MiB, want %d: %s", h.name, held, want, answer)
	}
	if want == 0 {
		t.Logf("with an empty balloon %s answers: %s", h.name, answer) // what the stand-ins of internal/control answer
	}
}

// talk sends words to the control socket and returns all that comes within a while.
func (h *trial) talk(t *testing.T, words string) string {
	t.Helper()
	conn, err := net.Dial("unix", "/var/lib/microvms/"+h.vm+"/"+h.vm+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := errors.Join(conn.SetDeadline(time.Now().Add(3*time.Second)), write(conn, words)); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // until the deadline
	return string(answer)
}

func write(w io.Writer, words string) error {
	_, err := io.WriteString(w, words)
	return err
}

// available is what the guest says it has for its programs, in MiB.
func (h *trial) available(t *testing.T) int {
	t.Helper()
	return number(t, sh(t, logs(h.vm)+" | grep -o 'available=[0-9]*' | tail -n 1 | tr -dc 0-9"))
}

// awaitAvailable waits until that is as it should be: a guest follows in steps.
func (h *trial) awaitAvailable(t *testing.T, good func(int) bool) int {
	t.Helper()
	now := h.available(t)
	for deadline := time.Now().Add(30 * time.Second); !good(now); now = h.available(t) {
		if time.Now().After(deadline) {
			out, _ := try(logs(h.vm) + " | grep 'available='")
			t.Fatalf("the guest has %d MiB for its programs: %s", now, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return now
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func number(t *testing.T, text string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
		t.Fatalf("%q is not a number", text)
	}
	return n
}

// killed kills the hypervisor; systemd brings the VM back.
func (h *trial) killed(t *testing.T) string {
	pid := sh(t, "systemctl show -P MainPID microvm@"+h.vm)
	sh(t, "sync; kill -9 "+pid)
	eventually(t, 300*time.Second, fmt.Sprintf("p=$(systemctl show -P MainPID microvm@%[1]s); test $p != 0 -a $p != %[2]s && systemctl is-active microvm@%[1]s", h.vm, pid))
	eventually(t, 90*time.Second, "test $("+logs(h.vm)+" | grep -c 'test guest is up') = 2")
	if !h.blind() {
		h.ping(t)
	}
	return "back"
}

// overSSH reports whether the hypervisor cannot ask its guest, so that the guest is
// asked itself.
func (h *trial) overSSH() bool { return !slices.Contains(h.can.Shutdown, "x86_64") }

// stop stops the VM; the result is how its guest was asked.
func (h *trial) stop(t *testing.T) string {
	if h.overSSH() && !h.blind() {
		if got := sh(t, "stat -c '%a %U' /var/lib/microvms/"+h.vm+"/.shutdown-key"); got != "600 microvm" {
			t.Errorf("the key for the shutdown is %s", got)
		}
	}
	sh(t, "systemctl stop microvm@"+h.vm)
	if out := sh(t, "find /var/lib/microvms/"+h.vm+" -maxdepth 1 -name '.shutdown-key*'"); out != "" {
		t.Errorf("a key is left: %s", out)
	}
	h.wantClean(t, "a stop")
	if h.overSSH() && h.blind() {
		return "SIGTERM"
	}
	if log := sh(t, logs(h.vm)); !strings.Contains(log, "marker written and synced to /data") || !strings.Contains(log, "Deactivated successfully") {
		t.Errorf("the guest did not go down by itself:\n%s", log)
	}
	if h.overSSH() {
		return "ssh"
	}
	return "graceful"
}

// volume starts the VM once more, which finds what it wrote before.
func (h *trial) volume(t *testing.T) string {
	sh(t, "systemctl start microvm@"+h.vm)
	waitFor(t, h.vm, `read /data/kept: "from the guest\n"`)
	waitFor(t, h.vm, "found marker on /data")
	// In this order nothing starts it again.
	sh(t, "pid=$(systemctl show -P MainPID microvm@"+h.vm+"); systemctl stop --no-block microvm@"+h.vm+"; kill -9 $pid; systemctl stop microvm@"+h.vm)
	h.wantClean(t, "kill -9 and a stop")
	return "kept"
}

// files lists the state directory.
func (h *trial) files(t *testing.T) []string {
	t.Helper()
	return strings.Fields(sh(t, "find /var/lib/microvms/"+h.vm+" -mindepth 1 -printf '%P,%y\\n' | sort"))
}

// wantClean checks that the state directory holds what it held before the first
// start, and the volume.
func (h *trial) wantClean(t *testing.T, after string) {
	t.Helper()
	// systemctl stop waits for the VM's own unit; its helpers follow.
	eventually(t, 30*time.Second, "test ! -L /var/lib/microvms/"+h.vm+"/booted")
	for _, file := range h.files(t) {
		if file != "data.img,f" && !slices.Contains(h.before, file) {
			t.Errorf("%s leaves %s", after, file)
		}
	}
}

// mute takes the control socket away from a hypervisor that multiplexes vsock, so
// that its guest is asked over SSH through that; the others show their way to the
// guest in stop.
func (h *trial) mute(t *testing.T) string {
	if h.can.Vsock != "unix" {
		return "-"
	}
	s := h.spec()
	s["socket"], s["balloon"], s["initrdPath"] = nil, false, assets+"/initrd-ssh"
	// Not by install, which would remove the VM before its end is looked at.
	sh(t, "install-microvm -p "+build(t, s)+" "+h.vm)
	sh(t, "systemctl start microvm@"+h.vm)
	since := sh(t, "journalctl -q -n 1 --show-cursor -u microvm@"+h.vm+" | sed -n 's/^-- cursor: //p'")
	sh(t, "systemctl stop microvm@"+h.vm)
	log := sh(t, logs(h.vm)+" --after-cursor='"+since+"'")
	for _, want := range []string{"asking the guest to go down by ssh-over-vsock", "marker written and synced to /data", "the hypervisor exited after", "Deactivated successfully"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log of the stop has no %q:\n%s", want, log)
		}
	}
	return "ssh"
}
