package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

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
