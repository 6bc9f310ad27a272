package e2e

import (
	"strings"
	"testing"
	"time"
)

func TestRunInTheForegroundMakesAndTakesBackEverything(t *testing.T) {
	in(t, "container")
	name := install(t, spec("fore", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-fore", 1)}
	}))
	p := newPane(t, "microvm run "+name+"; echo code $?")
	p.shows(t, "press ctrl-c to stop the VM")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	pid := sh(t, "pgrep -f '^microvm@fore'")
	if got := sh(t, "stat -c %U /proc/"+pid); got != "microvm" {
		t.Errorf("the hypervisor runs as %s", got)
	}
	sh(t, "ip link show vm-fore")
	want(t, 1, []string{"already running in the foreground"}, "run", name)
	p.keys(t, "C-c")
	p.shows(t, "code 0")
	if got := sh(t, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name); !strings.Contains(got, "mvguest: going down: signal interrupt") {
		t.Errorf("the guest was not asked to go down:\n%s", got)
	}
	nothingLeft(t, name)
	sh(t, "no_link vm-fore")
}

func TestRunOfAHypervisorThatIsKilledLeavesNothing(t *testing.T) {
	in(t, "container")
	name := install(t, spec("forekill", nil))
	p := newPane(t, "microvm run "+name+"; echo code $?")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	sh(t, "test -S /var/lib/microvms/forekill/forekill.sock && kill -9 $(pgrep -f '^microvm@forekill')")
	p.shows(t, "code 1")
	nothingLeft(t, name)
}

// TestShutdownEndsTheVMAndNobodyElse: the hypervisors' user can put a link to a
// socket of root, here that of PID 1, where its own was.
func TestShutdownEndsTheVMAndNobodyElse(t *testing.T) {
	in(t, "container")
	name := install(t, spec("bait", nil))
	p := newPane(t, "microvm run "+name+"; echo code $?")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	const socket, as = "/var/lib/microvms/bait/bait.sock", "setpriv --reuid microvm --regid kvm --init-groups "
	sh(t, as+"mv "+socket+" "+socket+".kept && "+as+"ln -s /run/systemd/private "+socket)
	want(t, 1, []string{"too many levels of symbolic links"}, "shutdown", name)
	sh(t, as+"mv -T "+socket+".kept "+socket)
	want(t, 0, []string{"asking the guest to go down"}, "shutdown", name)
	p.shows(t, "code 0")
	nothingLeft(t, name)
}

func TestRunThatFailsTakesBackWhatItMade(t *testing.T) {
	in(t, "container")
	name := install(t, spec("forefail", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-forefail", 1)}
		s["preStart"] = "echo no luck today; exit 3"
	}))
	want(t, 1, []string{"no luck today", "preStart", "the hypervisor of forefail failed: exit status ", "hint: see the messages above"}, "run", name)
	nothingLeft(t, name)
	sh(t, "no_link vm-forefail")
	// A helper that fails: the interface is somebody else's.
	sh(t, "ip link add vm-forefail type bridge")
	t.Cleanup(func() { _, _ = try("ip link delete vm-forefail") })
	want(t, 1, []string{"vm-forefail", "bringing up the tap interfaces of forefail failed", "hint: see the messages above"}, "run", name)
	sh(t, "ip link show vm-forefail")
	nothingLeft(t, name)
}

func TestRunOfAServiceIsRefused(t *testing.T) {
	in(t, "container")
	name := install(t, spec("served", nil))
	want(t, 0, nil, "start", name)
	want(t, 1, []string{"served is active as a service", "microvm stop served"}, "run", name)
}

func TestRunServesSharesWhileItRuns(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/fore && echo hello > /srv/fore/hello")
	name := install(t, spec("foreshare", func(s map[string]any) {
		s["shares"] = []any{map[string]any{"tag": "fore", "source": "/srv/fore", "proto": "virtiofs"}}
		s["kernelParams"] = []string{"mvguest.mount=fore:/fore:virtiofs", "mvguest.read=/fore/hello"}
	}))
	p := newPane(t, "microvm run "+name+"; echo code $?")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	if got := sh(t, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name); !strings.Contains(got, "hello") || strings.Contains(got, "FAILED") {
		t.Errorf("the guest does not read its share:\n%s", got)
	}
	p.keys(t, "C-c")
	p.shows(t, "code 0")
	nothingLeft(t, name)
	if out, err := try("no_process virtiofsd"); err != nil {
		t.Errorf("processes are still there: %s", out)
	}
	// One that cannot be served.
	sh(t, "rm -r /srv/fore && touch /srv/fore")
	t.Cleanup(func() { _, _ = try("rm /srv/fore") })
	want(t, 1, []string{"/srv/fore", "serving the shares of foreshare failed", "hint: see the messages above"}, "run", name)
	nothingLeft(t, name)
}

// Who is not root takes what root made, and becomes the hypervisor.
func TestRunAsTheHypervisorsUserSaysWhatIsMissing(t *testing.T) {
	in(t, "container")
	name := install(t, spec("hand", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-hand", 1)}
	}))
	const as = "setpriv --reuid microvm --regid kvm --init-groups "
	out, err := try(as + "microvm run hand")
	const remedy = "sudo /var/lib/microvms/hand/current/bin/tap-up"
	if err == nil || !strings.Contains(out, `tap interface "vm-hand" not found`) || !strings.Contains(out, "microvm: hint: create it with: "+remedy) {
		t.Fatalf("%v: %s", err, out)
	}
	sh(t, strings.TrimPrefix(remedy, "sudo "))
	t.Cleanup(func() { _, _ = try("ip link delete vm-hand") })
	p := newPane(t, as+"microvm run hand; echo code $?")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	pid := sh(t, "pgrep -f '^microvm@hand'")
	if got := sh(t, "stat -c %U /proc/"+pid); got != "microvm" {
		t.Errorf("the hypervisor runs as %s", got)
	}
	sh(t, "cd /var/lib/microvms/hand && "+as+"microvm shutdown ./current")
	p.shows(t, "code 0")
	sh(t, "/var/lib/microvms/hand/current/bin/tap-down")
	sh(t, "no_link vm-hand")
	nothingLeft(t, name)
	// Somebody else may not write into the VM's directory.
	out, err = try("setpriv --reuid nobody --clear-groups microvm run hand")
	if err == nil || !strings.Contains(out, "tap-up") {
		t.Errorf("user nobody is told %q, %v", out, err)
	}
}

func TestRunInTheForegroundTakesDevicesAndMacvtaps(t *testing.T) {
	in(t, "vm")
	address, wire := card(t)
	driver := "basename $(readlink /sys/bus/pci/devices/" + address + "/driver)"
	if got := sh(t, driver); got != "e1000e" {
		t.Fatalf("the card is on %s", got)
	}
	sh(t, "ip link set "+wire+" up")
	before := hostState(t)
	name := install(t, spec("forehw", func(s map[string]any) {
		s["interfaces"] = []any{
			tap("vm-forehw", 1),
			map[string]any{"type": "macvtap", "id": "mv-forehw", "mac": "02:00:00:00:00:02", "macvtap": map[string]any{"link": wire, "mode": "bridge"}},
		}
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
		s["vsock"] = map[string]any{"cid": 44}
	}))
	p := newPane(t, "microvm run "+name+"; echo code $?")
	eventually(t, 150*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'test guest is up'")
	pid := sh(t, "pgrep -f '^microvm@forehw'")
	if got := sh(t, "stat -c %U /proc/"+pid); got != "microvm" {
		t.Errorf("the hypervisor runs as %s", got)
	}
	if got := sh(t, driver); got != "vfio-pci" {
		t.Errorf("while the VM runs the card is on %s", got)
	}
	sh(t, "ip link show mv-forehw && ip link show vm-forehw")
	p.keys(t, "C-c")
	eventually(t, 90*time.Second, "tmux -L "+p.name+" capture-pane -p -S - -t "+p.name+" | grep 'code 0'")
	nothingLeft(t, name)
	eventually(t, 10*time.Second, "test $("+driver+") = e1000e && no_link mv-forehw && no_link vm-forehw")
	if after := hostState(t); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}
