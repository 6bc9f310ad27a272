package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

// TestShowSaysHowAVMGoesDown: by its hypervisor, by its guest, or by force.
func TestShowSaysHowAVMGoesDown(t *testing.T) {
	h := newHost(t)
	for members, want := range map[string]string{
		``:                                 "shut down by ctrl-alt-del: ",
		`,"hypervisor":"cloud-hypervisor"`: "shut down by power-button: Cloud Hypervisor has an ACPI power button\n",
		`,"hypervisor":"kvmtool","vsock":{"cid":7}`:                           "is asked to reboot, which ends the hypervisor, over ssh on vsock (needs sshd in the guest), else SIGTERM\n",
		`,"hypervisor":"kvmtool"`:                                             "without vsock.cid its guest cannot be reached: it gets SIGTERM at once, and the guest loses what it has not synced\n",
		`,"hypervisor":"alioth","vsock":{"cid":7,"ssh":{"shutdown":false}}`:   "vsock.ssh.shutdown is false: it gets SIGTERM at once",
		`,"hypervisor":"firecracker","socket":null,"vsock":{"cid":7}`:         "shut down by ssh-over-vsock: socket is null",
		`,"hypervisor":"stratovirt","initrdPath":"vmlinuz","vsock":{"cid":7}`: "shut down by ssh-over-vsock: StratoVirt's machine microvm has no power button",
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
