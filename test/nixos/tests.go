package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// test is one host's life.
type test struct {
	name string
	// boot is the generation that it boots, and uses are the others that it wants.
	boot string
	uses []string
	// upstream is whether it needs a checkout of microvm.nix.
	upstream bool
	run      func(m *machine)
}

var tests = []test{
	{name: "AHostWithoutVMsBootsAndSwitches", boot: "none", run: func(m *machine) {
		m.want("readlink /run/booted-system", m.systems["none"])
		m.must("switch", "none")
		m.noFailedUnit()
	}},
	{name: "AHostBootsWithItsVMs", boot: "two", run: func(m *machine) {
		m.isUp("a", "vm-a")
		m.isUp("k", "vm-k")
		m.stopsCleanly("a", "vm-a")
		m.sh("debugfs -R 'stat /shutdown-marker' /var/lib/microvms/a/data.img 2>/dev/null | grep -q Inode")
		m.noFailedUnit()
	}},
	{name: "SwitchesRestartWhatChanged", boot: "none", uses: []string{"two", "unrelated", "bigger"}, run: switches},
	{name: "ChangedVMsWithoutRestartGoOnUntilTheirNextStart", boot: "two", uses: []string{"bigger"}, run: func(m *machine) {
		m.isUp("k", "vm-k")
		same := m.same("k")
		m.must("switch", "bigger")
		same()
		m.stopsCleanly("k", "vm-k")
		m.sh("systemctl start microvm@k")
		m.isUp("k", "vm-k")
		m.hasMemory("k", 264)
		m.noFailedUnit()
	}},
	{name: "AHostTakesUpNetworkd", boot: "two", uses: []string{"networkd"}, run: func(m *machine) {
		m.isUp("a", "vm-a")
		same := m.same("a")
		m.must("switch", "networkd")
		same()
		m.sh("systemctl is-active systemd-networkd")
		m.stopsCleanly("a", "vm-a")
		m.sh("systemctl start microvm@a")
		m.isUp("a", "vm-a")
		m.must("switch", "two")
		m.noFailedUnit()
	}},
	{name: "VMsThatAreNoLongerDeclared", boot: "two", uses: []string{"without-a-keep", "without-a-stop", "without-a-purge"}, run: orphans},
	{name: "AVMThatIsRenamedKeepsItsTap", boot: "two-stop", uses: []string{"renamed-stop"}, run: func(m *machine) { renames(m, "stop") }},
	{name: "AVMThatIsRenamedAndPurgedKeepsItsTap", boot: "two-purge", uses: []string{"renamed-purge"}, run: func(m *machine) { renames(m, "purge") }},
	{name: "EverySwitchWithAVMThatFailsFails", boot: "none", uses: []string{"bad", "bad-bigger"}, run: failing},
	{name: "AReleaseOfOurPackageRestartsNoVM", boot: "two", uses: []string{"release"}, run: func(m *machine) {
		m.isUp("a", "vm-a")
		m.isUp("k", "vm-k")
		a, k := m.same("a"), m.same("k")
		m.release("release")
		k()
		// The VM that runs was started by the programs of before.
		m.stopsCleanly("k", "vm-k")
		m.sh("systemctl start microvm@k")
		m.isUp("k", "vm-k")
		m.noFailedUnit()
		a()
	}},
	{name: "AReleaseOfOurPackageRestartsVMsThatWantIt", boot: "updating", uses: []string{"updating-release"}, run: func(m *machine) {
		m.isUp("a", "vm-a")
		m.isUp("k", "vm-k")
		before, k := m.pid("a"), m.same("k")
		m.release("updating-release")
		k()
		m.isUp("a", "vm-a")
		if m.pid("a") == before {
			m.fatalf("a has restartOnUpdate and was not restarted")
		}
		if ups, downs := m.said("a", up), m.said("a", down); downs != 1 {
			m.fatalf("the guest of a was up %d times and was shut down %d times", ups, downs)
		}
		m.noFailedUnit()
	}},
	{name: "MovingOverFromMicrovmNix", boot: "theirs", uses: []string{"moved"}, upstream: true, run: func(m *machine) { moves(m, "moved") }},
	{name: "MovingBackToMicrovmNix", boot: "moved", uses: []string{"theirs"}, upstream: true, run: func(m *machine) { moves(m, "theirs") }},
	{name: "MovingOverBackAndOver", boot: "theirs", uses: []string{"moved"}, upstream: true, run: func(m *machine) {
		m.must("switch", "moved")
		// Ours starts one and writes down what with, and theirs another time with
		// something else: what is written down then is of a run that is over.
		m.isUp("m", "vm-m")
		m.sh("systemctl restart microvm@m")
		m.isUp("m", "vm-m")
		m.must("switch", "theirs")
		m.sh("systemctl restart microvm@m")
		m.isUp("m", "vm-m")
		theirs := m.sh("readlink /var/lib/microvms/m/booted")
		m.must("switch", "moved")
		m.want("readlink /run/microvm/m/booted", theirs)
		for _, name := range []string{"m", "e", "r"} {
			m.isUp(name, "vm-"+name)
			m.stopsCleanly(name, "vm-"+name)
			m.sh("systemctl start microvm@" + name)
			m.isUp(name, "vm-"+name)
			m.healthy(name)
		}
		m.noFailedUnit()
	}},
}

// release switches to another build of our package, which is another program at
// another path, and says so.
func (m *machine) release(generation string) {
	const which = "readlink -f /etc/microvm/libexec; microvm --version; sha256sum < /etc/microvm/libexec/microvm-run-wrapper"
	before := m.sh(which)
	m.must("switch", generation)
	after := m.sh(which)
	m.step("%s", before+"\n"+after)
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range was {
		if was[i] == is[i] {
			m.fatalf("%s is the same build as another: %s", generation, is[i])
		}
	}
}

func switches(m *machine) {
	m.must("switch", "two")
	m.isUp("a", "vm-a")
	m.isUp("k", "vm-k")
	m.sh("test -d /var/lib/microvms/a -a ! -w /etc/systemd/system/microvm@.service")
	a, k := m.same("a"), m.same("k")
	for _, generation := range []string{"two", "unrelated", "two"} {
		m.must("switch", generation)
		a()
		k()
	}

	out := m.must("dry-activate", "bigger")
	if !regexp.MustCompile(`would (restart|stop|start)[^\n]*:[^\n]*microvm@a\.service`).MatchString(out) {
		m.fatalf("dry-activate says nothing of microvm@a:\n%s", out)
	}
	if regexp.MustCompile(`would (restart|stop)[^\n]*:[^\n]*microvm@k\.service`).MatchString(out) {
		m.fatalf("dry-activate would restart microvm@k:\n%s", out)
	}
	m.must("boot", "bigger")
	a()
	k()

	m.must("test", "bigger")
	k()
	m.isUp("a", "vm-a")
	m.hasMemory("a", 264)
	m.hasMemory("k", 256)
	m.want("readlink /run/current-system", m.systems["bigger"])

	m.must("switch", "two")
	k()
	m.isUp("a", "vm-a")
	m.hasMemory("a", 256)
	m.noFailedUnit()
}

func orphans(m *machine) {
	m.isUp("a", "vm-a")
	m.isUp("k", "vm-k")
	a, k := m.same("a"), m.same("k")
	m.must("switch", "without-a-keep")
	a()
	k()
	m.eventually("journalctl -q -o cat -b | grep -q 'MicroVM a is no longer declared and is left as it is'")
	m.must("switch", "without-a-stop")
	k()
	m.wentDown("a", "vm-a")
	m.sh("test -e /var/lib/microvms/a/data.img")

	m.must("switch", "two")
	m.isUp("a", "vm-a")
	k()
	m.must("switch", "without-a-purge")
	k()
	m.wentDown("a", "vm-a")
	m.sh("test ! -e /var/lib/microvms/a")
	m.noFailedUnit()
}

func renames(m *machine, policy string) {
	m.isUp("a", "vm-a")
	k := m.same("k")
	for round := range 3 {
		m.step("round %d", round+1)
		m.must("switch", "renamed-"+policy)
		m.isUp("b", "vm-a")
		m.want("systemctl is-active microvm@a", "inactive")
		m.must("switch", "two-"+policy)
		m.isUp("a", "vm-a")
		m.want("systemctl is-active microvm@b", "inactive")
		k()
	}
	m.noFailedUnit()
}

func failing(m *machine) {
	const rounds = 20
	ok := 0
	for round := range rounds {
		// Changed, declared again while it is in its restart loop, and as it was.
		generation := []string{"bad", "bad-bigger", "bad-bigger", "none", "bad"}[round%5]
		if generation == "none" {
			_, _ = m.do("switch", "none")
			generation = "bad"
		}
		out, code := m.do("switch", generation)
		if code == 0 {
			m.step("it ended well and said:\n%s", out)
			ok++
		}
	}
	if ok != 0 {
		m.fatalf("%d of %d switches with a VM that fails ended well", ok, rounds)
	}
}

// moves takes VMs that run from one module to the other.
func moves(m *machine, to string) {
	names := []string{"m", "e"}
	for _, name := range append(names, "r") {
		m.isUp(name, "vm-"+name)
	}
	var same []func()
	for _, name := range names {
		same = append(same, m.same(name))
	}
	restarted := m.pid("r")
	m.must("switch", to)
	for _, check := range same {
		check()
	}
	if m.pid("r") == restarted {
		m.fatalf("r has restartIfChanged and was not restarted")
	}
	m.isUp("r", "vm-r")
	if to == "moved" {
		m.want("microvm list --json | jq -r '.[] | [.name, .state, .runner] | join(\" \")'",
			"e active stale\nm active stale\nr active current")
		for _, name := range []string{"", "m", "e", "r"} {
			m.healthy(name)
		}
	}

	// One is stopped, the other restarted; neither switch nor stop may take its power.
	m.stopsCleanly("m", "vm-m")
	m.sh("debugfs -R 'stat /shutdown-marker' /var/lib/microvms/m/data.img 2>/dev/null | grep -q Inode")
	m.sh("systemctl start microvm@m")
	m.isUp("m", "vm-m")
	downs := m.said("e", down)
	m.sh("systemctl restart microvm@e")
	if m.said("e", down) == downs {
		m.fatalf("the guest of e was not shut down before it was started again")
	}
	m.isUp("e", "vm-e")
	for _, name := range append(names, "r") {
		m.stopsCleanly(name, "vm-"+name)
	}
	m.noFailedUnit()
	m.leftNothing(to)
}

// leftNothing looks for what is left of VMs that are down, on a host that has moved:
// our records and roots are all that may stay.
func (m *machine) leftNothing(to string) {
	m.want("ls /sys/class/net", "lo")
	m.want("cd /var/lib/microvms && printf '%s\\n' */*", strings.Join([]string{
		"e/current", "e/toplevel", "m/current", "m/data.img", "m/toplevel", "r/current", "r/toplevel"}, "\n"))
	m.want("cd /var/lib/microvms && printf '%s\\n' .[a-z]*", ".declared\n.lock\n.origin")
	m.want("cd /nix/var/nix/gcroots/microvm && printf '%s\\n' * | sed 's/.$/VM/' | sort | uniq -c | tr -s ' '",
		"3 VM\n 3 booted-VM\n 3 old-VM")
	if to != "moved" {
		return
	}
	// What runs a VM has it pinned; nothing does.
	m.want("find /run/microvm -mindepth 1", "")
	m.want("readlink /nix/var/nix/gcroots/microvm/booted-*", "/run/microvm/e/booted\n/run/microvm/m/booted\n/run/microvm/r/booted")
	m.want("readlink -e /nix/var/nix/gcroots/microvm/booted-*", "")
	m.want("stat -c '%U %a' /var/lib/microvms /var/lib/microvms/[emr] | sort -u", "root 1775\nroot 755")
	m.want("find /var/lib/microvms -type l -not -user root", "")
	m.want("microvm list --json | jq -r '.[] | [.name, .state, .runner] | join(\" \")'",
		"e inactive not booted\nm inactive not booted\nr inactive not booted")
	for _, name := range []string{"", "m", "e", "r"} {
		m.healthy(name)
	}
}

// healthy fails where the doctor finds something wrong with a VM, or the host, but
// for the KVM that a container has not.
func (m *machine) healthy(name string) {
	// It prints at least "true", where there are findings at all.
	const failed = `jq -r 'length > 0, (.[] | select(.status == "failed" and .check != "kvm") | [.check, .detail] | join(": "))'`
	m.want("(microvm doctor --json "+name+" 2>/dev/null || true) | "+failed, "true")
}

// What the test guest says.
const (
	up   = "mvguest: test guest is up"
	down = "mvguest: going down"
)

func (m *machine) said(name, what string) int {
	out, _ := m.try(fmt.Sprintf("journalctl -q -o cat -b -u microvm@%s | grep -c '%s'", name, what))
	n, err := strconv.Atoi(out)
	if err != nil {
		m.fatalf("count of %q: %v", what, err)
	}
	return n
}

func (m *machine) pid(name string) string {
	return m.sh("systemctl show -P MainPID microvm@" + name)
}

// isUp waits until a VM's guest is up, for one that is asked before would not
// hear that it shall go down.
func (m *machine) isUp(name, tap string) {
	m.want("systemctl is-active microvm@"+name, "active")
	m.sh("ip link show " + tap)
	// By its process: journald may attribute a line of a restarted unit to the run before.
	m.eventually(fmt.Sprintf("journalctl -q -o cat -b _PID=$(systemctl show -P MainPID microvm@%s) | grep -q '%s'", name, up))
}

// same returns a function that fails if the VM is another process by then.
func (m *machine) same(name string) func() {
	before := m.pid(name)
	if before == "0" {
		m.fatalf("%s does not run", name)
	}
	return func() {
		m.want("systemctl is-active microvm@"+name, "active")
		if now := m.pid(name); now != before {
			m.fatalf("%s was restarted: process %s became %s", name, before, now)
		}
	}
}

func (m *machine) hasMemory(name string, mib int) {
	line := m.sh("tr '\\0' ' ' < /proc/" + m.pid(name) + "/cmdline")
	if !strings.Contains(line, fmt.Sprintf(" %dM ", mib)) && !strings.Contains(line, fmt.Sprintf("-m %d", mib)) {
		m.fatalf("%s has not %d MiB: %s", name, mib, line)
	}
}

// stopsCleanly stops a VM whose guest is up.
func (m *machine) stopsCleanly(name, tap string) {
	m.sh("systemctl stop microvm@" + name)
	m.wentDown(name, tap)
}

// wentDown fails unless a VM is down by its guest's own doing, with nothing left
// of it.
func (m *machine) wentDown(name, tap string) {
	m.want(fmt.Sprintf("for p in ActiveState Result; do systemctl show -P $p microvm@%s; done", name), "inactive\nsuccess")
	if ups, downs := m.said(name, up), m.said(name, down); ups != downs {
		m.fatalf("the guest of %s was up %d times and was shut down %d times", name, ups, downs)
	}
	// The helpers stop after the VM, and systemctl does not wait for them.
	m.eventually("all=$(ip -oneline link show) && [[ $all != *': " + tap + ":'* ]]")
	m.eventually(fmt.Sprintf("test ! -h /var/lib/microvms/%s/booted", name))
}

func (m *machine) noFailedUnit() {
	m.want("systemctl list-units --state=failed --no-legend --plain", "")
}
