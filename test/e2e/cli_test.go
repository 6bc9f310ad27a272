package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// oddRef has everything that a shell would trip over.
const oddRef = `git+file:///srv/my "flakes"/it's?x=$(touch${IFS}/tmp/pwned)&y=;|#`

// microvm runs the command and returns what it printed, both streams, and its
// exit code. Its words reach it as they are.
func microvm(t testing.TB, words ...string) (string, int) {
	t.Helper()
	out, err := exec.Command("microvm", words...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// want runs the command, which has to exit with code and to print all of text.
func want(t testing.TB, code int, text []string, words ...string) string {
	t.Helper()
	out, got := microvm(t, words...)
	if got != code {
		t.Fatalf("microvm %q: exit code %d, want %d\n%s", words, got, code, out)
	}
	for _, w := range text {
		if !strings.Contains(out, w) {
			t.Errorf("microvm %q does not say %q:\n%s", words, w, out)
		}
	}
	return out
}

// standIn is a nix that is steered by a directory.
type standIn struct{ dir string }

// newStandIn puts the stand-in in PATH, as nix, and Nix's directories on the
// host.
func newStandIn(t *testing.T) *standIn {
	t.Helper()
	n := &standIn{t.TempDir()}
	sh(t, "mkdir -p /nix/store /nix/var/nix/gcroots "+n.dir+"/bin && ln -s "+assets+"/nixstandin "+n.dir+"/bin/nix")
	t.Setenv("NIX_STANDIN", n.dir)
	t.Setenv("PATH", n.dir+"/bin:"+os.Getenv("PATH"))
	t.Cleanup(func() { _, _ = try("rm -rf /nix") })
	return n
}

// set writes one of the stand-in's files; an empty text removes it.
func (n *standIn) set(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(n.dir, name)
	if text == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// vm puts a VM into a flake.
func (n *standIn) vm(t *testing.T, ref string, s map[string]any) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	name, _ := s["name"].(string)
	n.set(t, "flakes/"+url.PathEscape(ref)+"/"+name+".json", string(data))
}

// calls are the arguments of each call of nix so far.
func (n *standIn) calls(t *testing.T) [][]string {
	t.Helper()
	var calls [][]string
	for line := range strings.Lines(sh(t, "cat "+n.dir+"/calls")) {
		var args []string
		if err := json.Unmarshal([]byte(line), &args); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, args)
	}
	return calls
}

func writeSpec(t *testing.T, s map[string]any) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// listed is the line of a VM in the list.
func listed(t testing.TB, name string, flags ...string) string {
	t.Helper()
	out, _ := microvm(t, append([]string{"list"}, flags...)...)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strings.Join(f, " ")
		}
	}
	return ""
}

func wantListed(t testing.TB, name, pattern string, flags ...string) {
	t.Helper()
	if got := listed(t, name, flags...); !regexp.MustCompile("^" + name + " " + pattern).MatchString(got) {
		t.Errorf("the list says %q, want %q", got, pattern)
	}
}

// leftovers are what a VM that is not there may have left.
func leftovers(t testing.TB, name string) string {
	t.Helper()
	// It fails where a directory is not there; the first that is found, that it looked.
	const looked = "/var/lib/microvms"
	out, _ := try(fmt.Sprintf("find %[2]s /run/microvm /nix/var/nix/gcroots /etc/systemd/system.control /etc/systemd/system /tmp -maxdepth 3 \\( -path %[2]s -o -name '%[1]s' -o -name '*@%[1]s.service*' -o -name '*-%[1]s' -o -name '.microvm-*' -o -name 'microvm-build-*' \\) 2>/dev/null", name, looked))
	found := strings.Split(out, "\n")
	if !slices.Contains(found, looked) {
		t.Fatalf("find did not look: %s", out)
	}
	found = slices.DeleteFunc(found, func(path string) bool { return path == looked || strings.Contains(path, "/.store/") })
	return strings.Join(found, "\n")
}

func TestAVMFromAFlakeLivesItsLife(t *testing.T) {
	in(t, "container")
	n := newStandIn(t)
	guest := func(mem int) map[string]any {
		return spec("fl.ake", func(s map[string]any) {
			s["mem"] = mem
			s["interfaces"] = []any{tap("vm-flake", 0x51)}
			s["kernelParams"] = []string{"mvguest.ip=10.85.0.2/24"}
		})
	}
	const name = "fl.ake"
	cleanUp(t, name)
	n.vm(t, oddRef, guest(256))
	n.set(t, "warn", "Git tree '/srv' is dirty")
	want(t, 0, []string{"fl.ake: created in /var/lib/microvms/fl.ake", "microvm start fl.ake", "is dirty"}, "-c", name, "-f", oddRef)
	if got, exact := n.calls(t)[0], oddRef+`#nixosConfigurations."fl.ake".config.microvm.declaredRunner`; got[0] != "build" || got[3] != exact {
		t.Errorf("nix was called with %q, want %q", got, exact)
	}
	if got := sh(t, "cat /var/lib/microvms/fl.ake/flake"); got != oddRef {
		t.Errorf("the flake is recorded as %q", got)
	}
	if _, err := os.Stat("/tmp/pwned"); err == nil {
		t.Error("a shell has seen the flake reference")
	}
	if got := sh(t, "readlink -e /nix/var/nix/gcroots/microvm/fl.ake"); !strings.HasPrefix(got, "/nix/store/") {
		t.Errorf("Nix keeps %q", got)
	}
	wantListed(t, name, "inactive qemu not booted")
	want(t, 1, []string{`VM "fl.ake" already exists`, "hint: rebuild it with: microvm update fl.ake"}, "create", name, "-f", oddRef)

	want(t, 0, []string{"fl.ake: is up"}, "start", name)
	wantListed(t, name, "active qemu current [0-9]+s [0-9.]+[MG] [0-9.]+s")
	waitFor(t, name, "test guest is up")
	sh(t, "ip address add 10.85.0.1/24 dev vm-flake && ping -c 1 -W 10 10.85.0.2")
	wantListed(t, name, "active qemu current .* 10\\.85\\.0\\.2$")
	want(t, 0, []string{"state       active, up ", "flake " + oddRef, "unit        microvm-tap-interfaces@fl.ake: active (exited)", "test guest is up"}, "status", name)
	want(t, 0, []string{"test guest is up", "Started microvm@fl.ake.service"}, "logs", name)
	want(t, 0, []string{"is up to date"}, "-u", name)

	before := sh(t, "readlink /var/lib/microvms/fl.ake/current")
	n.vm(t, oddRef, guest(300))
	wantListed(t, name, "active qemu current")
	wantListed(t, name, "active qemu outdated", "--check")
	want(t, 0, []string{"would change", "- -m 256M", "+ -m 300M", "microvm: ε → ∅, +0.0 KiB"}, "update", "--dry-run", name)
	if got := sh(t, "readlink /var/lib/microvms/fl.ake/current"); got != before {
		t.Errorf("a dry run changed current to %s", got)
	}
	out := want(t, 0, []string{"fl.ake: updated\n", "+ -m 300M", "hint: switch to the installed one with: microvm restart fl.ake"}, "update", name)
	if strings.Contains(out, "\x1b") {
		t.Errorf("there is colour in %q", out)
	}
	wantListed(t, name, "active qemu stale")
	want(t, 0, []string{"is up to date", "is up again"}, "-Ru", name)
	wantListed(t, name, "active qemu current", "--check")
	pid := sh(t, "systemctl show -P MainPID microvm@"+name)
	want(t, 0, []string{"is up to date", "no restart is needed"}, "-Ru", name)
	if got := sh(t, "systemctl show -P MainPID microvm@"+name); got != pid {
		t.Error("a VM that did not change was restarted")
	}
	waitFor(t, name, "test guest is up")

	want(t, 0, []string{"rolled back to " + before, "hint: switch to the installed one with: microvm restart fl.ake"}, "rollback", name)
	wantListed(t, name, "active qemu stale")
	want(t, 1, []string{"microvm: fl.ake is active\nmicrovm: hint: stop it first with: microvm stop fl.ake\n"}, "rm", "--yes", name)
	want(t, 0, []string{"is down"}, "stop", name)
	want(t, 0, []string{"fl.ake: starts at boot"}, "enable", name)
	want(t, 1, []string{"microvm: refusing to remove fl.ake without confirmation: stdin is not a terminal\nmicrovm: hint: use --yes\n"}, "rm", name)
	want(t, 0, []string{"fl.ake: removed"}, "rm", "--yes", name)
	if got := leftovers(t, name); got != "" {
		t.Errorf("left behind: %s", got)
	}
	want(t, 3, []string{"microvm: VM \"fl.ake\" not found\nmicrovm: hint: list VMs with: microvm list\n"}, "status", name)
}

func TestAVMFromASpecLivesItsLifeWithoutNix(t *testing.T) {
	in(t, "container")
	if path, err := exec.LookPath("nix"); err == nil {
		t.Fatalf("there is a nix in %s", path)
	}
	const name = "specced"
	cleanUp(t, name)
	guest := func(mem int) map[string]any {
		return spec(name, func(s map[string]any) {
			s["mem"] = mem
			s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
			s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4"}
		})
	}
	file := writeSpec(t, guest(256))
	want(t, 2, []string{"-s", "-p"}, "create", name)
	want(t, 1, []string{`describes a VM "specced", not "other"`}, "create", "other", "-s", file)
	want(t, 0, []string{"created", "starts at boot", "is up"}, "create", name, "-s", file, "--start", "--enable")
	wantListed(t, name, "active qemu current")
	sh(t, "systemctl is-enabled microvms.target microvm@specced")
	// The target is wanted at boot in any case, also after a systemctl enable.
	sh(t, "test $(readlink -f /usr/lib/systemd/system/multi-user.target.wants/microvms.target) = /usr/lib/systemd/system/microvms.target")
	sh(t, "systemctl disable microvms.target 2>/dev/null; systemctl show -P Wants multi-user.target | grep -w microvms.target")
	waitFor(t, name, "test guest is up")

	data, err := json.Marshal(guest(300))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	wantListed(t, name, "active qemu outdated", "--check")
	sh(t, "chmod 666 "+file)
	want(t, 1, []string{"is writable by other users than its owner", "chmod go-w " + file}, "update", name)
	sh(t, "chmod 600 "+file+" && chown nobody "+file)
	want(t, 1, []string{"is owned by uid 65534, not by root", "chown root " + file}, "update", name)
	sh(t, "chown root "+file)
	var results []struct {
		Name               string
		Changed, Restarted bool
		Diff               []string
	}
	out, err := exec.Command("microvm", "update", "--json", "--restart", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results) != 1 || !results[0].Changed || !results[0].Restarted || len(results[0].Diff) < 2 {
		t.Errorf("update --json printed %s (%v)", out, err)
	}
	wantListed(t, name, "active qemu current", "--check")
	waitFor(t, name, "test guest is up")
	want(t, 0, nil, "rollback", name)
	want(t, 0, []string{"is up again"}, "restart", name)
	if got := sh(t, "tr '\\0' ' ' < /proc/$(systemctl show -P MainPID microvm@specced)/cmdline"); !strings.Contains(got, " 256M ") {
		t.Errorf("after the rollback the VM is %s", got)
	}
	waitFor(t, name, "test guest is up")
	want(t, 0, nil, "stop", name)
	want(t, 0, []string{"does not start at boot"}, "disable", name)
	if got := sh(t, "systemctl show -P UnitFileState microvm@specced"); got != "disabled" {
		t.Errorf("it is %s", got)
	}

	want(t, 0, []string{"removed; its data is in /var/lib/microvms/specced"}, "rm", name, "--yes", "--keep-data")
	if got := sh(t, "ls -A /var/lib/microvms/specced"); got != "data.img" {
		t.Errorf("kept: %s", got)
	}
	wantListed(t, name, "inactive - data only")
	want(t, 1, []string{"has no runner", "microvm create specced"}, "start", name)
	want(t, 0, nil, "create", name, "-s", file, "--start")
	waitFor(t, name, "found marker on /data")
	want(t, 0, nil, "stop", name)
	want(t, 0, nil, "rm", name, "-y")
	if got := leftovers(t, name); got != "" {
		t.Errorf("left behind: %s", got)
	}
	want(t, 0, []string{"removed /var/lib/microvms/.store/"}, "gc")
}

func TestACreateThatFailsOrIsInterruptedLeavesNothing(t *testing.T) {
	in(t, "container")
	n := newStandIn(t)
	n.vm(t, "path:/f", spec("never", nil))
	n.set(t, "fail", "attribute 'frobnicate' missing")
	want(t, 1, []string{"attribute 'frobnicate' missing", "nix could not build never from flake path:/f"}, "create", "never", "-f", "path:/f")
	n.set(t, "fail", "")
	want(t, 1, []string{"does not provide attribute"}, "create", "never", "-f", "path:/g")
	want(t, 2, []string{"looks like a flag"}, "create", "never", "--flake=--impure")
	want(t, 1, []string{"unknown option"}, "create", "never", "-s", writeSpec(t, map[string]any{"name": "never", "kernel": "/k", "memm": 1}))
	if got := leftovers(t, "never"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		n.set(t, "sleep", "300s")
		// Whoever started the tests may have had hang-ups ignored.
		cmd := exec.Command("env", "--default-signal=HUP", "microvm", "create", "never", "-f", "path:/f")
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "pgrep -x nix && ls -d /tmp/microvm-build-*")
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := cmd.Wait(); err == nil || time.Since(began) > patience || !strings.Contains(out.String(), "was not created, and nothing was left behind") {
			t.Errorf("%s: %v after %s: %s", signal, err, time.Since(began), &out)
		}
		if got := leftovers(t, "never"); got != "" {
			t.Errorf("%s: left behind: %s", signal, got)
		}
		if out, err := try("no_process -x nix"); err != nil {
			t.Errorf("%s: nix goes on: %s", signal, out)
		}
	}
}

// mostAtOnce is how many processes with a name were there at once, until done.
func mostAtOnce(done <-chan struct{}, name string) int {
	most := 0
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		if out, err := exec.Command("pgrep", "-xc", name).Output(); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
			most = max(most, n)
		}
		select {
		case <-done:
			tick.Stop()
			return most
		case <-tick.C:
		}
	}
}

func TestAnUpdateOfSeveralReportsEachAndRunsThemAtOnce(t *testing.T) {
	in(t, "container")
	n := newStandIn(t)
	const ref = "path:/several"
	for _, name := range []string{"up-a", "up-b", "up-c"} {
		cleanUp(t, name)
		n.vm(t, ref, spec(name, nil))
		want(t, 0, nil, "create", name, "-f", ref)
	}
	declared := install(t, spec("up-declared", nil))
	sh(t, "install-microvm -p /var/lib/microvms/up-declared/current --toplevel /nix/store/x-nixos-system up-declared")
	packaged := install(t, spec("up-packaged", nil))
	for _, name := range []string{"up-a", "up-b", "up-c"} {
		n.vm(t, ref, spec(name, func(s map[string]any) { s["mem"] = 300 }))
	}
	before := sh(t, "readlink /var/lib/microvms/up-b/current")
	n.set(t, "sleep", "10s")
	n.set(t, "fail.up-b", "hash mismatch in fixed-output derivation")
	done, most := make(chan struct{}), make(chan int)
	go func() { most <- mostAtOnce(done, "nix") }()
	out := want(t, 4, []string{
		"up-a: building from " + ref, "up-a: updated\n", "up-c: updated\n",
		"up-b: nix could not build", "hash mismatch",
		"up-declared is declared by this host's configuration", "nixos-rebuild switch",
		"up-packaged was created from a package", `VM "up-nosuch" not found`,
	}, "update", "up-a", "up-b", "up-c", declared, packaged, "up-nosuch")
	close(done)
	if got := <-most; got != 3 {
		t.Errorf("of three builds that take 10 s each, %d ran at once", got)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "hash mismatch") && strings.HasPrefix(line, "up-a") {
			t.Errorf("one VM's words are under another's name: %s", line)
		}
	}
	if got := sh(t, "readlink /var/lib/microvms/up-b/current"); got != before {
		t.Errorf("the VM that failed was changed to %s", got)
	}
	n.set(t, "fail.up-b", "")
	n.set(t, "sleep", "")
	want(t, 0, []string{"up-a: is up to date", "up-b: updated\n", "up-c: is up to date"}, "update", "--all")
	want(t, 3, nil, "update", "no-a", "no-b")
	want(t, 2, nil, "update")
}

func TestAStartThatFailsShowsWhatTheUnitSaid(t *testing.T) {
	in(t, "container")
	taken := install(t, spec("say-taken", func(s map[string]any) { s["interfaces"] = []any{tap("vm-saytaken", 1)} }))
	sh(t, "ip link add vm-saytaken type veth peer name vm-saytaken2")
	t.Cleanup(func() { _, _ = try("ip link delete vm-saytaken") })
	out := want(t, 1, []string{"say-taken did not start: microvm-tap-interfaces@say-taken", "the name is taken by a veth interface"}, "start", taken)
	if strings.Contains(strings.ToLower(out), "journalctl") {
		t.Errorf("the user is sent away: %s", out)
	}
	// It is tried again and again, and has failed in between.
	eventually(t, patience, "microvm status say-taken > /run/say-taken; grep -F 'microvm-tap-interfaces@say-taken: failed (failed), exit-code' /run/say-taken && grep -F 'the name is taken by a veth interface' /run/say-taken")
	want(t, 0, nil, "stop", taken)
	sh(t, "install -m 644 "+assets+"/vmlinuz /root/vmlinuz-say && chmod 755 /root")
	gone := install(t, spec("say-gone", func(s map[string]any) { s["kernel"] = "/root/vmlinuz-say" }))
	good := install(t, spec("say-good", nil))
	sh(t, "rm /root/vmlinuz-say")
	want(t, 4, []string{"say-gone did not start", "kernel /root/vmlinuz-say: no such file", "say-good: is up"}, "start", gone, good)
	dies := install(t, spec("say-dies", func(s map[string]any) { s["qemu"] = map[string]any{"extraArgs": []string{"-nonsense"}} }))
	want(t, 1, []string{"say-dies did not start: microvm@say-dies failed before the VM was ready, and systemd will try again", "hint: stop the retries with: microvm stop say-dies",
		"-nonsense: invalid option"}, "start", dies)
	// Each try asks systemd twice in a moment; none of them may wait for a reply
	// that never comes.
	for range 10 {
		_, _ = try("timeout 300 systemctl start microvm@say-dies")
		sh(t, "timeout 300 microvm stop say-dies")
	}
}

// moments are points in time after a start: n of them, a step apart, and then
// later ones until something went through, on a machine that is slow today.
func moments(step time.Duration, n int, through func() bool) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		for i := range n {
			if !yield(time.Duration(i) * step) {
				return
			}
		}
		for delay := 2 * time.Duration(n) * step; delay < 20*time.Second && !through(); delay *= 2 {
			if !yield(delay) {
				return
			}
		}
	}
}

func TestASignalAtAnyMomentOfACreateLeavesAVMOrNone(t *testing.T) {
	in(t, "container")
	const name = "anytime"
	cleanUp(t, name)
	file := writeSpec(t, spec(name, func(s map[string]any) { s["interfaces"] = []any{tap("vm-anytime", 1)} }))
	whole, none := 0, 0
	for delay := range moments(2*time.Millisecond, 30, func() bool { return whole > 0 }) {
		cmd := exec.Command("microvm", "create", name, "-s", file)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		_ = cmd.Process.Signal(syscall.SIGINT)
		err := cmd.Wait()
		if _, missing := os.Lstat("/var/lib/microvms/" + name + "/current"); missing == nil {
			whole++
			want(t, 0, []string{"qemu"}, "show", name)
			sh(t, "grep -x Wants=microvm-tap-interfaces@anytime.service /etc/systemd/system.control/microvm@anytime.service.d/50-helpers.conf")
			want(t, 0, nil, "rm", "--yes", name)
		} else if none++; err == nil {
			t.Errorf("after %s there is no VM, and the exit code is 0: %s", delay, &out)
		}
		if got := leftovers(t, name); got != "" {
			t.Fatalf("after %s: left behind: %s\n%s", delay, got, &out)
		}
	}
	if whole == 0 || none == 0 {
		t.Errorf("%d times there was a VM and %d times none; the moments were not spread", whole, none)
	}
	t.Logf("%d times there was a VM and %d times none", whole, none)
}

func TestASignalAtAnyMomentOfAnUpdateLeavesTheOldOrTheNew(t *testing.T) {
	in(t, "container")
	const name = "anyupdate"
	cleanUp(t, name)
	file := writeSpec(t, spec(name, nil))
	want(t, 0, nil, "create", name, "-s", file)
	changed, same := 0, 0
	i := 0
	for delay := range moments(2*time.Millisecond, 25, func() bool { return changed > 0 }) {
		i++
		before := sh(t, "readlink /var/lib/microvms/anyupdate/current")
		data, err := json.Marshal(spec(name, func(s map[string]any) { s["mem"] = 300 + i }))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("microvm", "update", name)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		_ = cmd.Process.Signal(syscall.SIGINT)
		err = cmd.Wait()
		switch after := sh(t, "readlink /var/lib/microvms/anyupdate/current"); {
		case after == before:
			same++
			if err == nil {
				t.Errorf("nothing changed, and the exit code is 0: %s", &out)
			}
		default:
			changed++
			if got := sh(t, "readlink /var/lib/microvms/anyupdate/old"); got != before {
				t.Errorf("old is %s, want %s", got, before)
			}
			want(t, 0, []string{fmt.Sprintf("%dM", 300+i)}, "show", name)
		}
		if got := sh(t, "find /var/lib/microvms -name '.microvm-*'; find /tmp -name 'microvm-build-*'"); got != "" {
			t.Fatalf("left behind: %s\n%s", got, &out)
		}
	}
	if changed == 0 || same == 0 {
		t.Errorf("%d times it changed and %d times not; the moments were not spread", changed, same)
	}
}

func TestOfTwoCreationsOfOneNameOneIsMade(t *testing.T) {
	in(t, "container")
	const name = "twice"
	cleanUp(t, name)
	file := writeSpec(t, spec(name, nil))
	codes := make(chan int)
	const both = 2
	for range both {
		go func() {
			err := exec.Command("microvm", "create", name, "-s", file).Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				codes <- exit.ExitCode()
				return
			}
			codes <- 0
		}()
	}
	if sum := <-codes + <-codes; sum != 1 {
		t.Errorf("the exit codes add up to %d, want one 0 and one 1", sum)
	}
	want(t, 0, []string{"qemu"}, "show", name)
}

func TestLogsAreFollowedUntilCtrlC(t *testing.T) {
	in(t, "container")
	foreign(t, "followed", "#!/bin/sh\necho first words\necho second\necho third\nexec sleep 1000\n", "")
	p := newPane(t, "microvm logs followed -f; echo code $?")
	// Nothing was logged yet, and all that comes now is shown.
	eventually(t, 5*time.Second, "pgrep -f '[j]ournalctl.*microvm@followed.*--follow'")
	sh(t, "systemctl start microvm@followed")
	p.shows(t, `first words`)
	sh(t, "systemctl stop microvm@followed")
	p.shows(t, `Stopped microvm@followed.service`)
	p.interrupt(t)
	p.keys(t, "echo; echo still a shell", "Enter")
	p.shows(t, `(?m)^still a shell`)
	want(t, 0, []string{"first words"}, "logs", "followed", "--", "-o", "cat", "--grep", "first words")
	if out := want(t, 0, nil, "logs", "followed", "-n", "1"); strings.Contains(out, "first words") || strings.Count(out, "\n") != 1 {
		t.Errorf("the last line is %q", out)
	}
	if out := want(t, 0, nil, "logs", "followed", "-n", "0"); strings.Contains(out, "followed") {
		t.Errorf("of no lines are printed %q", out)
	}
	want(t, 2, []string{"unexpected argument \"else\"\nmicrovm: hint: put arguments for journalctl after --"}, "logs", "followed", "else")
	want(t, 2, []string{"invalid number of lines -1"}, "logs", "followed", "-n", "-1")
	want(t, 3, nil, "logs", "nobody")
}

// As on NixOS, where /etc/systemd/system is part of the system.
func TestEnablingWhereUnitsAreReadOnlySaysWhatToDo(t *testing.T) {
	in(t, "container")
	const name, units = "declared", "/etc/systemd/system"
	cleanUp(t, name)
	sh(t, "mkdir -p "+units+"/microvms.target.wants && mount --bind "+units+" "+units+" && mount -o remount,bind,ro "+units)
	t.Cleanup(func() { sh(t, "umount "+units+" && systemctl daemon-reload") })
	file := writeSpec(t, spec(name, nil))
	want(t, 1, []string{"declared: created", "declared was created, but: declared will not start at boot", "ead-only", "on NixOS add it to microvm.autostart"}, "create", name, "-s", file, "--enable")
	want(t, 1, []string{"declared will not start at boot", "microvm.autostart"}, "enable", name)
	want(t, 0, []string{"does not start at boot"}, "disable", name)
	want(t, 0, []string{"at boot     no"}, "status", name)
	// All else is as elsewhere.
	want(t, 0, []string{"declared: is up"}, "start", name)
	want(t, 0, nil, "stop", name)
	want(t, 0, []string{"declared: removed"}, "rm", "--yes", name)
	if got := leftovers(t, name); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestRemovalTakesAwayWhatHelpersLeft(t *testing.T) {
	in(t, "container")
	name := install(t, spec("left", func(s map[string]any) { s["interfaces"] = []any{tap("vm-left", 1)} }))
	sh(t, "/usr/lib/microvm/microvm-set-booted up left && /usr/lib/microvm/microvm-tap-interfaces up left && ip link show vm-left")
	want(t, 0, []string{"left: starts at boot"}, "enable", name)
	want(t, 0, []string{"left: removed"}, "rm", "--yes", name)
	sh(t, "no_link vm-left")
	if got := leftovers(t, name); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestPeopleWhoAreNotRootMayLookAndNotTouch(t *testing.T) {
	in(t, "container")
	name := install(t, spec("looked", nil))
	as := func(words string) (string, error) {
		return try("cd / && setpriv --reuid nobody --clear-groups microvm " + words)
	}
	for _, words := range []string{"list", "list --json", "status looked", "show looked"} {
		if out, err := as(words); err != nil || !strings.Contains(out, "qemu") {
			t.Errorf("%s: %v: %s", words, err, out)
		}
	}
	for _, words := range []string{"create x -p /tmp", "update looked", "rollback looked", "rm looked --yes", "start looked", "enable looked"} {
		if out, err := as(words); err == nil || !strings.Contains(out, "sudo") {
			t.Errorf("%s: %v: %s", words, err, out)
		}
	}
	var rows []map[string]any
	out, err := exec.Command("microvm", "list", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r["name"] == name && (r["state"] != "inactive" || r["runner"] != "not booted" || r["hypervisor"] != "qemu") {
			t.Errorf("the list says %v", r)
		}
	}
}

// many makes VMs that do nothing but be there.
func many(t *testing.T) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "p")
	for path, text := range map[string]string{"bin/microvm-run": "#!/bin/sh\nexec sleep 1000\n", "share/microvm/hypervisor": "qemu\n"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "chmod 755 "+filepath.Dir(dir))
	names := make([]string, rounds(60, 200))
	for i := range names {
		names[i] = fmt.Sprintf("many%03d", i)
	}
	sh(t, fmt.Sprintf("install-microvm -p %s many000 && cd /var/lib/microvms && for i in {001..%03d}; do cp -a many000 many$i; done", dir, len(names)-1))
	t.Cleanup(func() {
		_, _ = try("systemctl stop 'microvm@many*'; rm -rf /var/lib/microvms/many* /var/lib/microvms/.origin/many* /etc/systemd/system.control/microvm@many*; systemctl daemon-reload")
	})
	return names
}

func TestAListOfManyVMsAsksSystemdOnceAndIsQuick(t *testing.T) {
	in(t, "container")
	names := many(t)
	began := time.Now()
	want(t, 0, nil, append([]string{"start"}, names...)...)
	t.Logf("%d VMs started in %s", len(names), time.Since(began))
	listIsQuick(t, len(names))
	for _, user := range []string{"root", "nobody"} {
		out := sh(t, "cd / && setpriv --reuid "+user+" strace -f -s 4096 -o '|cat >&2' -e trace=write,sendmsg,sendto microvm list 2>&1 >/dev/null")
		// A call begins with its byte order, its kind, and flags, of which 1 says
		// that nobody waits for a reply.
		calls := len(regexp.MustCompile(`"l\\1\\0\\1.*org\.freedesktop\.systemd1\.Manager`).FindAllString(out, -1))
		if calls != 1 || !strings.Contains(out, "ListUnitsByPatterns") {
			t.Errorf("as %s systemd was called %d times:\n%.2000s", user, calls, out)
		}
	}
	half := names[len(names)/2:]
	want(t, 0, nil, append([]string{"stop"}, half...)...)
	sh(t, "cd /var/lib/microvms && rm -r "+strings.Join(half, " "))
	listIsQuick(t, len(half))
}

// listIsQuick lists VMs that all run, of which there are n or a few more, and
// measures the time that the command's processors took, not the clock's: the
// machine's other work is not what is measured. A VM may cost a millisecond.
func listIsQuick(t *testing.T, n int) {
	t.Helper()
	limit := max(50*time.Millisecond, time.Duration(n)*time.Millisecond)
	best := time.Hour
	for range 10 {
		cmd := exec.Command("microvm", "list")
		text, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		out := string(text)
		best = min(best, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		if got := strings.Count(out, " active "); got < n || got > n+10 {
			t.Fatalf("%d VMs are active, want %d:\n%s", got, n, out)
		}
	}
	t.Logf("a list of %d running VMs took %s", n, best)
	if best > limit {
		t.Errorf("a list of %d VMs took %s", n, best)
	}
}

// prompt is at the end of what a terminal shows, when a shell waits for a command.
const prompt = `# *\n*$`

// pane is a terminal that somebody sits at, of a server of its own: one that serves
// several goes with the last, while the next is being asked for.
type pane struct{ name string }

func newPane(t *testing.T, command string) *pane {
	t.Helper()
	p := &pane{"t" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	sh(t, fmt.Sprintf("tmux -u -L %[1]s new-session -d -s %[1]s -x 150 -y 30 \"env PATH='$PATH' bash --norc\"", p.name))
	t.Cleanup(func() { _, _ = try("tmux -L " + p.name + " kill-server") })
	p.shows(t, prompt)
	p.keys(t, command, "Enter")
	return p
}

func (p *pane) keys(t *testing.T, keys ...string) {
	t.Helper()
	if out, err := exec.Command("tmux", append([]string{"-L", p.name, "send-keys", "-t", p.name}, keys...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// interrupt types ctrl-c and waits for the shell's prompt: what is typed before that,
// the terminal throws away with the signal, termios(3).
func (p *pane) interrupt(t *testing.T) {
	t.Helper()
	p.keys(t, "C-c")
	p.shows(t, prompt)
}

// idle waits until the shell at the terminal does nothing.
func (p *pane) idle(t *testing.T) {
	t.Helper()
	eventually(t, patience, `shell=$(tmux -L `+p.name+` display-message -p -t `+p.name+` '#{pane_pid}'); no_process -P $shell && grep -q '^State:.S' /proc/$shell/status`)
}

// shows waits until the terminal shows what matches pattern, and returns all
// that it shows, with colours as sequences.
func (p *pane) shows(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var out string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out = sh(t, "tmux -L "+p.name+" capture-pane -p -t "+p.name); re.MatchString(out) {
			return sh(t, "tmux -L "+p.name+" capture-pane -e -p -t "+p.name)
		}
	}
	t.Fatalf("the terminal does not show %q:\n%s", pattern, out)
	return ""
}

func TestAWatchedListFollowsTheVMs(t *testing.T) {
	in(t, "container")
	foreign(t, "watched", "#!/bin/sh\nexec sleep 1000\n", "")
	p := newPane(t, "microvm list --watch")
	p.shows(t, `watched +inactive +qemu +not booted`)
	sh(t, "systemctl start microvm@watched")
	began := time.Now()
	out := p.shows(t, `watched +active +qemu +current +[0-9]+s`)
	took := time.Since(began)
	t.Run("cost", func(t *testing.T) {
		if cost := processCost(t); cost > 4*time.Millisecond {
			t.Skipf("a process costs %s here: the machine is busy with something else", cost)
		}
		// The list is drawn every two seconds in any case.
		if took > 1500*time.Millisecond {
			t.Errorf("the list followed after %s, by chance", took)
		}
	})
	if !strings.Contains(out, "\x1b[32m") {
		t.Errorf("there is no colour on a terminal: %q", out)
	}
	// In a terminal that is too narrow for it a line is cut, and none is lost.
	sh(t, "tmux -L "+p.name+" resize-window -t "+p.name+" -x 40 -y 12")
	out = p.shows(t, `(?m)\ANAME +STATE +HYPER[A-Z]+.*\n(.*\n)*watched +active +qemu +current`)
	if strings.Contains(out, "ADDRESSES") {
		t.Errorf("a line is not cut at the terminal's edge:\n%s", out)
	}
	sh(t, "tmux -L "+p.name+" resize-window -t "+p.name+" -x 150 -y 30")
	sh(t, "systemctl stop microvm@watched")
	out = p.shows(t, `watched +inactive +qemu +not booted`)
	if strings.Count(out, "watched ") != 1 {
		t.Errorf("the list is there more than once:\n%s", out)
	}
	p.interrupt(t)
	p.keys(t, "echo; echo code $?", "Enter")
	p.shows(t, `code 0`)
}

func TestRemovalAsksBeforeItActs(t *testing.T) {
	in(t, "container")
	foreign(t, "asked", "#!/bin/sh\nexec sleep 1000\n", "")
	sh(t, "truncate -s 64M /var/lib/microvms/asked/data.img")
	p := newPane(t, "microvm rm asked")
	p.shows(t, `Remove VM asked and all its data in /var/lib/microvms/asked \(data.img 64M\)\? \[y/N\]`)
	p.keys(t, "Enter")
	p.shows(t, `asked was not removed`)
	sh(t, "test -e /var/lib/microvms/asked/data.img")
	p.keys(t, "clear; microvm rm asked", "Enter")
	p.shows(t, `\A[^\n]*\[y/N\] *\n*$`) // not the question of before
	p.interrupt(t)
	p.keys(t, "clear; NO_COLOR=1 microvm list", "Enter")
	if out := p.shows(t, `asked +inactive`); strings.Contains(out, "\x1b[") {
		t.Errorf("NO_COLOR is set, and there is colour: %q", out)
	}
	p.keys(t, "clear; microvm list | cat; echo pi''ped", "Enter")
	if out := p.shows(t, `(?m)^piped$`); strings.Contains(out, "\x1b[") {
		t.Errorf("in a pipe there is colour: %q", out)
	}
	p.keys(t, "clear; microvm list; echo col''oured", "Enter")
	if out := p.shows(t, `(?m)^coloured$`); !strings.Contains(out, "\x1b[1m") || !strings.Contains(out, "\x1b[2m") {
		t.Errorf("there is no colour on a terminal: %q", out)
	}
	p.keys(t, "clear; microvm rm asked", "Enter")
	p.shows(t, `\[y/N\]`)
	p.keys(t, "y", "Enter")
	p.shows(t, `asked: removed`)
	if got := leftovers(t, "asked"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestCtrlCInTheMiddleLeavesNothingHalfMade(t *testing.T) {
	in(t, "container")
	n := newStandIn(t)
	const ref = "path:/ctrlc"
	for _, name := range []string{"ctrl-a", "ctrl-b"} {
		cleanUp(t, name)
		n.vm(t, ref, spec(name, nil))
	}
	want(t, 0, nil, "create", "ctrl-a", "-f", ref)
	n.set(t, "sleep", "30s")
	p := newPane(t, "export NIX_STANDIN="+n.dir+"; clear; microvm create ctrl-b -f "+ref)
	p.shows(t, `building '/nix/store/ctrl-b.drv'`)
	p.keys(t, "C-c")
	p.shows(t, `VM "ctrl-b" was not created, and nothing was left behind`)
	if got := leftovers(t, "ctrl-b"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	before := sh(t, "ls -lA --time-style=full-iso /var/lib/microvms/ctrl-a")
	n.vm(t, ref, spec("ctrl-a", func(s map[string]any) { s["mem"] = 300 }))
	p.keys(t, "clear; microvm update --all", "Enter")
	p.shows(t, `ctrl-a: building from path:/ctrlc: building`)
	p.keys(t, "C-c")
	p.shows(t, `ctrl-a: interrupted before anything changed`)
	if got := sh(t, "ls -lA --time-style=full-iso /var/lib/microvms/ctrl-a"); got != before {
		t.Errorf("an update that was interrupted changed\n%s\nto\n%s", before, got)
	}
	if got := sh(t, "find /tmp -name 'microvm-build-*'; no_process -x nix"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}
