package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/vm"
	"microvm/test/need"
)

// host runs microvm commands on a host of its own, in a directory of its own.
type host struct {
	dir            string
	stdout, stderr bytes.Buffer
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{dir: t.TempDir()}
	for _, d := range []string{"state", "run"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(h.dir)
	return h
}

func (h *host) microvm(args ...string) int {
	h.stdout.Reset()
	h.stderr.Reset()
	c := &Command{
		Host:   statedir.Host{StateDir: filepath.Join(h.dir, "state"), RuntimeDir: filepath.Join(h.dir, "run"), User: "nobody", Group: "nogroup", LibexecDir: "/usr/lib/microvm"},
		Stdout: &h.stdout, Stderr: &h.stderr,
		BinDir: "/usr/bin", Version: "1.2.3",
	}
	return c.Run(args)
}

// write makes a spec of the given members beside a kernel.
func (h *host) write(t *testing.T, name, members string) {
	t.Helper()
	text := `{"name":"web","arch":"x86_64","kernel":"vmlinuz"` + members + `}`
	for name, data := range map[string]string{name: text, "vmlinuz": "kernel"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuildSaysWhatItChose(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", `,"vsock":{"cid":7},"mem":2048`)
	if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &h.stderr)
	}
	for _, want := range []string{"built web", "guest (vsock.cid is set", "ctrl-alt-del ("} {
		if !strings.Contains(h.stdout.String(), want) {
			t.Errorf("printed %q, without %q", &h.stdout, want)
		}
	}
	if !strings.Contains(h.stderr.String(), "warning: mem: QEMU may hang with exactly 2048 MiB") {
		t.Errorf("no warning of 2048 MiB: %q", &h.stderr)
	}
}

// TestAFileThatIsNotThereIsNamedAndNotPartOfThePackage: another host may have it.
func TestAFileThatIsNotThereIsNamedAndNotPartOfThePackage(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", `,"initrdPath":"initrd"`)
	packages := map[string]string{}
	for _, there := range []string{"none", "all"} {
		if there == "all" {
			h.write(t, "initrd", "")
		}
		if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
			t.Fatalf("exit code %d: %s", code, &h.stderr)
		}
		warned := strings.Contains(h.stderr.String(), "microvm: warning: initrdPath: "+filepath.Join(h.dir, "initrd")+" is not there; the VM starts only where it is\n")
		if warned != (there == "none") || strings.Contains(h.stderr.String(), "kernel: ") {
			t.Errorf("with %s there: %q", there, &h.stderr)
		}
		plan, ok := vm.PlanAt("web")
		if !ok {
			t.Fatal("no package")
		}
		text, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		packages[there] = string(text)
	}
	if packages["none"] != packages["all"] {
		t.Errorf("the package depends on the host that it was built on:\n%s\n%s", packages["none"], packages["all"])
	}
}

// TestAVMThatCannotStartIsNotCreatedToBeStarted, and leaves nothing.
func TestAVMThatCannotStartIsNotCreatedToBeStarted(t *testing.T) {
	need.Root(t) // only root creates VMs
	h := newHost(t)
	h.write(t, "web.json", `,"initrdPath":"initrd"`)
	for _, flag := range []string{"--start", "--enable"} {
		code := h.microvm("create", "web", "-s", "web.json", flag)
		if code != 1 || !strings.Contains(h.stderr.String(), "web cannot start, so it was not created: initrdPath: "+filepath.Join(h.dir, "initrd")+" is not there") {
			t.Errorf("%s: exit code %d: %s", flag, code, &h.stderr)
		}
		if _, err := os.Lstat(filepath.Join(h.dir, "state/web")); err == nil {
			t.Errorf("%s: the VM is there", flag)
		}
	}
	s := source{absent: []hypervisor.File{{Role: "credentialFiles.key", Path: "/run/key"}}}
	if err := s.startable("web"); err != nil {
		t.Errorf("a credential that is made at boot: %v", err)
	}
}

// TestShowSaysHowAVMGoesDown: by its hypervisor, by its guest, or by force.
func TestShowSaysHowAVMGoesDown(t *testing.T) {
	h := newHost(t)
	for members, want := range map[string]string{
		``:                                 "goes down by ctrl-alt-del: ",
		`,"hypervisor":"cloud-hypervisor"`: "goes down by power-button: Cloud Hypervisor has an ACPI power button\n",
		`,"hypervisor":"kvmtool","vsock":{"cid":7}`:                           "is asked to reboot, which ends the hypervisor, over ssh on vsock (needs sshd in the guest), else SIGTERM\n",
		`,"hypervisor":"kvmtool"`:                                             "without vsock.cid its guest cannot be reached: it gets SIGTERM at once, and the guest loses what it has not synced\n",
		`,"hypervisor":"alioth","vsock":{"cid":7,"ssh":{"shutdown":false}}`:   "vsock.ssh.shutdown is false: it gets SIGTERM at once",
		`,"hypervisor":"firecracker","socket":null,"vsock":{"cid":7}`:         "goes down by ssh-over-vsock: socket is null",
		`,"hypervisor":"stratovirt","initrdPath":"vmlinuz","vsock":{"cid":7}`: "goes down by ssh-over-vsock: StratoVirt's machine microvm has no power button",
	} {
		h.write(t, "web.json", members)
		if code := h.microvm("show", "web.json"); code != 0 || !strings.Contains(h.stdout.String(), want) {
			t.Errorf("%s: exit code %d, without %q: %s%s", members, code, want, &h.stdout, &h.stderr)
		}
	}
}

func TestShowTakesADirectoryASpecAndAName(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", `,"interfaces":[{"type":"tap","id":"vm-web","mac":"02:00:00:00:00:01"}]`)
	if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
		t.Fatal(&h.stderr)
	}
	vm := filepath.Join(h.dir, "state", "inst")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(h.dir, "web"), filepath.Join(vm, "current")); err != nil {
		t.Fatal(err)
	}
	var first string
	for _, word := range []string{"web", "web.json", "inst"} {
		if code := h.microvm("show", word); code != 0 {
			t.Fatalf("show %s: exit code %d: %s", word, code, &h.stderr)
		}
		if first == "" {
			first = h.stdout.String()
		}
		if h.stdout.String() != first {
			t.Errorf("show %s prints\n%swhile show web printed\n%s", word, &h.stdout, first)
		}
	}
	if !strings.Contains(first, "\n  -netdev\n  tap,id=net0,ifname=vm-web,") {
		t.Errorf("the command line is not one argument a line:\n%s", first)
	}
	if code := h.microvm("show", "--json", "web"); code != 0 {
		t.Fatal(&h.stderr)
	}
	var plan hypervisor.Plan
	if err := json.Unmarshal(h.stdout.Bytes(), &plan); err != nil || plan.Taps[0].ID != "vm-web" {
		t.Errorf("show --json printed %s: %v", &h.stdout, err)
	}
}

func TestAVMThatRunsAsAServiceIsKnownByItsControlGroup(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/system-microvm.slice/microvm@web.a.service\n":                               "web.a",
		"2:pids:/user.slice\n1:name=systemd:/system.slice/system-microvm.slice/microvm@web.service\n": "web",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                               "",
		"0::/system.slice/system-microvm.slice/microvm@web.service/inner\n":                           "web",
		"0::/microvm@.slice\n": "",
	} {
		if got := serviceIn(groups); got != want {
			t.Errorf("%q: %q, want %q", groups, got, want)
		}
	}
}

func TestExitCodesAndLastLines(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no such command":       {[]string{"biuld"}, 2, "did you mean \"build\"?"},
		"no command's help":     {[]string{"help", "nope"}, 2, `there is no command "nope"; see: microvm --help`},
		"help on a near one":    {[]string{"help", "biuld"}, 2, `there is no command "biuld" (did you mean "build"?)`},
		"help within a command": {[]string{"help", "build", "nope"}, 2, `there is no command "build nope"; see: microvm build --help`},
		"no shell of ours":      {[]string{"completion", "nope"}, 2, `there is no command "completion nope"; see: microvm completion --help`},
		"a shell, nearly":       {[]string{"completion", "bsh"}, 2, `(did you mean "bash"?)`},
		"help on a wrong shell": {[]string{"help", "completion", "nope"}, 2, `there is no command "completion nope"`},
		"no such flag":          {[]string{"build", "--fast", "web.json"}, 2, "--help"},
		"a word too many":       {[]string{"schema", "please"}, 2, `"please" is one word too many; the command is: microvm schema; see: microvm schema --help`},
		"a word in the list":    {[]string{"list", "web"}, 2, `"web" is one word too many; the command is: microvm list`},
		"three words for two":   {[]string{"balloon", "web", "1", "2"}, 2, `"2" is one word too many`},
		"a word too few":        {[]string{"show"}, 2, "a word is missing; the command is: microvm show DIR|NAME|SPEC"},
		"no VM to start":        {[]string{"start"}, 2, "a word is missing; the command is: microvm start NAME…"},
		"two kinds of analysis": {[]string{"analyze", "--blame", "--svg", "x"}, 2, "--svg excludes"},
		"two ways to print":     {[]string{"analyze", "web", "--svg", "x", "--json"}, 2, "--svg excludes"},
		"a VM that is down":     {[]string{"shutdown", "down"}, 1, "down is not running; start it with: microvm start down"},
		"its balloon":           {[]string{"balloon", "down", "64"}, 1, "down is not running"},
		"its console":           {[]string{"console", "down"}, 1, "down is not running"},
		"nowhere to build to":   {[]string{"build", "web.json"}, 2, "-o DIR"},
		"a spec that is not":    {[]string{"build", "none.json", "-o", "x"}, 1, "none.json"},
		"a bad spec":            {[]string{"build", "bad.json", "-o", "x"}, 1, "hypervisr: unknown option (did you mean \"hypervisor\"?)"},
		"a VM that is not":      {[]string{"show", "nobody"}, 3, "microvm list"},
		"a VM to shut down":     {[]string{"shutdown", "nobody"}, 3, "there is no VM \"nobody\""},
		"a name that is a path": {[]string{"shutdown", "../x"}, 2, "VM name"},
		"over a file":           {[]string{"build", "web.json", "-o", "vmlinuz"}, 1, "is no runner package"},
		"into nowhere":          {[]string{"build", "web.json", "-o", "no/such/dir"}, 1, "no/such"},
		"a spec as a package":   {[]string{"run", "web.json"}, 1, "web.json"},
		"an empty directory":    {[]string{"show", "run"}, 1, "is no runner package"},
	}
	h := newHost(t)
	h.write(t, "web.json", "")
	h.write(t, "bad.json", `,"hypervisr":"qemu"`)
	// What lies around under a VM's name does not stand for it.
	for _, dir := range []string{"state/down", "down"} {
		if err := os.Mkdir(filepath.Join(h.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code := h.microvm(test.args...)
			if code != test.code || !strings.Contains(h.stderr.String(), test.want) {
				t.Errorf("microvm %v: exit code %d, %q; want %d and %q", test.args, code, &h.stderr, test.code, test.want)
			}
			for line := range strings.Lines(h.stderr.String()) {
				if !strings.HasPrefix(line, "microvm: ") {
					t.Errorf("line %q does not say who speaks", line)
				}
			}
		})
	}
}

func TestANameIsThatOfAVMWhateverElseIsCalledSo(t *testing.T) {
	h := newHost(t)
	h.write(t, "other.json", `,"mem":300`)
	h.write(t, "web.json", "")
	for _, name := range []string{"other", "web"} {
		if code := h.microvm("build", name+".json", "-o", name); code != 0 {
			t.Fatal(&h.stderr)
		}
	}
	vm := filepath.Join(h.dir, "state", "web")
	if err := errors.Join(os.Mkdir(vm, 0o755), os.Symlink(filepath.Join(h.dir, "other"), filepath.Join(vm, "current"))); err != nil {
		t.Fatal(err)
	}
	for word, memory := range map[string]string{"web": "300M", "./web": "512M"} {
		if code := h.microvm("show", word); code != 0 || !strings.Contains(h.stdout.String(), "\n  "+memory) {
			t.Errorf("show %s: exit code %d, without %s: %s%s", word, code, memory, &h.stdout, &h.stderr)
		}
	}
}

// TestRootReadsNoPackageThatOthersCanChange: what it says is whom root is to end,
// and what root is to say to it.
func TestRootReadsNoPackageThatOthersCanChange(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", "")
	if code := h.microvm("build", "web.json", "-o", "pkg"); code != 0 {
		t.Fatal(&h.stderr)
	}
	vm := filepath.Join(h.dir, "state", "web")
	for _, err := range []error{
		os.Mkdir(vm, 0o755), os.Chmod(filepath.Join(h.dir, "pkg"), 0o777),
		os.Symlink(filepath.Join(h.dir, "pkg"), filepath.Join(vm, "current")),
		os.Symlink(filepath.Join(h.dir, "pkg"), filepath.Join(vm, "booted")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"shutdown", "balloon"} {
		code := h.microvm(command, "web")
		if trusts := !strings.Contains(h.stderr.String(), "is not trusted"); code == 0 || trusts != (os.Geteuid() != 0) {
			t.Errorf("%s: exit code %d: %s", command, code, &h.stderr)
		}
	}
}

func TestAJobThatIsInterruptedBeforeItBeganIsNoSuccess(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	vm := statedir.VM{Host: statedir.Host{StateDir: filepath.Join(h.dir, "state")}, Name: "web"}
	if err := errors.Join(os.Mkdir(vm.Dir(), 0o755), os.Symlink("/p", filepath.Join(vm.Dir(), "current"))); err != nil {
		t.Fatal(err)
	}
	failed, err := runJobs(ctx, &h.stdout, &h.stderr, systemd.Start, []statedir.VM{vm})
	if err == nil || !strings.Contains(err.Error(), "microvm start web") || len(failed) > 0 {
		t.Errorf("%v, %v", failed, err)
	}
}

func TestHelpNamesTheFlagsOfMicrovmNix(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("--help"); code != 0 {
		t.Fatal(&h.stderr)
	}
	for _, want := range []string{"-c NAME", "-u NAME", "-Ru NAME", "-r NAME", "-s NAME", "-l ", "-f FLAKE"} {
		if !strings.Contains(h.stdout.String(), want) {
			t.Errorf("the help does not name %s:\n%s", want, &h.stdout)
		}
	}
}

func TestRunNamesWhatIsMissing(t *testing.T) {
	need.Program(t, "qemu-system-x86_64") // its absence would be named first
	h := newHost(t)
	h.write(t, "web.json", `,"interfaces":[{"type":"tap","id":"vm-no-such-tap","mac":"02:00:00:00:00:01"}],
		"shares":[{"tag":"home","source":"home","proto":"virtiofs"}]`)
	if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
		t.Fatal(&h.stderr)
	}
	if code := h.microvm("run", "web"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		`microvm: tap interface "vm-no-such-tap" is missing; make it with: sudo web/bin/tap-up`,
		`microvm: socket web-virtiofs-home.sock of share "home" is missing; serve it, in another terminal, with: sudo web/bin/virtiofsd-run`,
	} {
		if !strings.Contains(h.stderr.String(), want) {
			t.Errorf("printed %q, without %q", &h.stderr, want)
		}
	}
	for _, script := range []string{"tap-up", "tap-down", "virtiofsd-run", "microvm-run"} {
		if info, err := os.Stat(filepath.Join("web/bin", script)); err != nil || info.Mode()&0o111 != 0o111 {
			t.Errorf("bin/%s cannot be run: %v", script, err)
		}
		if out, err := exec.Command("/bin/sh", "-n", filepath.Join("web/bin", script)).CombinedOutput(); err != nil {
			t.Errorf("bin/%s: %v: %s", script, err, out)
		}
	}
}

func TestTheTableOfHypervisorsIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("hypervisors"); code != 0 {
		t.Fatal(&h.stderr)
	}
	table, err := hypervisor.Table()
	if err != nil {
		t.Fatal(err)
	}
	for name := range table {
		if !strings.Contains(h.stdout.String(), "\n"+name+" ") {
			t.Errorf("no row for %s in\n%s", name, &h.stdout)
		}
	}
	for _, want := range []string{
		"MULTI-QUEUE     MACVTAP-FD  SHARES", "qemu              user,tap,macvtap,bridge  x86_64,aarch64  yes         9p,virtiofs  pci,usb",
		"kvmtool           user,tap,macvtap         -               -           9p           pci", "vhost  guest      yes",
	} {
		if !strings.Contains(h.stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &h.stdout)
		}
	}
	h.stdout.Reset()
	if code := h.microvm("hypervisors", "--json"); code != 0 {
		t.Fatal(&h.stderr)
	}
	var rows map[string]hypervisor.Capabilities
	if err := json.Unmarshal(h.stdout.Bytes(), &rows); err != nil || len(rows) != len(table) {
		t.Errorf("%d rows: %v", len(rows), err)
	}
}

func TestTheSchemaIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("schema"); code != 0 {
		t.Fatal(&h.stderr)
	}
	want := spec.Schema()
	if !json.Valid(h.stdout.Bytes()) || !bytes.Equal(bytes.TrimSpace(want), bytes.TrimSpace(h.stdout.Bytes())) {
		t.Errorf("printed %.200s …", &h.stdout)
	}
}

func TestTheVersionIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("--version"); code != 0 || !strings.Contains(h.stdout.String(), "1.2.3") {
		t.Errorf("exit code %d, %q", code, &h.stdout)
	}
}
