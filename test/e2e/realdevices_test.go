package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

// TestInterfacesAndCardsOfTheRealHypervisors gives a guest of each hypervisor that
// is there two CPUs and what it can have of a tap, a macvtap and a card.
func TestInterfacesAndCardsOfTheRealHypervisors(t *testing.T) {
	in(t, "vm")
	table, err := hypervisor.Table()
	if err != nil {
		t.Fatal(err)
	}
	address, wire := card(t)
	sh(t, fmt.Sprintf("ip link set %[1]s up && ip address add 10.80.0.1/24 dev %[1]s && ip netns add peer && ip link add peer0 link %[1]s type macvlan mode bridge && ip link set peer0 netns peer && ip -n peer link set peer0 up && ip -n peer address add 10.81.0.1/24 dev peer0", wire))
	t.Cleanup(func() { _, _ = try("ip netns delete peer; ip address flush dev " + wire) })
	for _, name := range slices.Sorted(maps.Keys(table)) {
		h := &trial{name: name, can: table[name]}
		_, err := os.Stat(hypervisorsDir + "/bin/" + programs[name])
		if name == "qemu" || err != nil || h.blind() {
			t.Logf("not run: %s", name)
			continue
		}
		t.Run(name, func(t *testing.T) { h.devices(t, address, wire) })
	}
}

// devices starts a VM with what its hypervisor can have, and has its guest use it.
func (h *trial) devices(t *testing.T, address, wire string) {
	vm, own := "dev-"+h.name, "dv-"+h.name[:min(len(h.name), 12)]
	words := []string{"mvguest.ip=10.82.0.2/24,02:00:00:00:00:01"}
	queues := 1
	if slices.Contains(h.can.TapMultiQueue, "x86_64") {
		queues = 2
	}
	want := []string{"cpus=2 ", fmt.Sprintf("mac=02:00:00:00:00:01 queues=%d", queues)}
	install(t, spec(vm, func(s map[string]any) {
		s["hypervisor"] = h.name
		s[h.name] = map[string]any{"package": hypervisorsDir}
		s["vcpu"] = 2
		s["vsock"] = map[string]any{"cid": 66}
		if kernel := h.kernel(); kernel != "" {
			s["kernel"] = kernel
		}
		interfaces := []any{tap(own, 1)}
		if slices.Contains(h.can.Interfaces, "macvtap") {
			interfaces = append(interfaces, map[string]any{"type": "macvtap", "id": "dm-" + h.name[:min(len(h.name), 12)], "mac": "02:00:00:00:00:02", "macvtap": map[string]any{"link": wire, "mode": "bridge"}})
			words = append(words, "mvguest.ip=10.81.0.2/24,02:00:00:00:00:02", "mvguest.ping=10.81.0.1")
			want = append(want, "ping 10.81.0.1 answered")
		}
		// In crosvm's machine the card works behind a virtio_iommu, whose driver the
		// test guest does not have.
		if slices.Contains(h.can.Devices, "pci") && h.name != "crosvm" {
			s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
			words = append(words, "mvguest.ip=10.80.0.2/24,52:54:00:00:00:01", "mvguest.ping=10.80.0.1")
			want = append(want, "ping 10.80.0.1 answered")
		}
		s["interfaces"], s["kernelParams"] = interfaces, words
	}))
	if out, err := try("systemctl start microvm@" + vm); err != nil {
		log, _ := try(logs(vm) + " | tail -60")
		t.Fatalf("%s\n%s", out, log)
	}
	for _, text := range want {
		waitFor(t, vm, text)
	}
	sh(t, "ip address replace 10.82.0.1/24 dev "+own+" && ping -c 1 -W 10 10.82.0.2; ip address flush dev "+own)
	log := sh(t, logs(vm)+" | grep -E 'cpus=|interface |ping |pci '")
	t.Log(strings.TrimSpace(log))
	sh(t, "systemctl stop microvm@"+vm)
	nothingLeft(t, vm)
}
