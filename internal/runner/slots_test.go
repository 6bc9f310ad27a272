package runner

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"microvm/internal/control"
	"microvm/internal/spec"
)

// standIns replace devices that a host may not have. Each takes one slot, like the device
// that it replaces.
var standIns = map[string]string{
	"vfio-pci":        "edu",
	"vhost-vsock-pci": "pci-testdev",
	"virtio-vga-gl":   "bochs-display",
}

// TestGuestsSeeTheSlotsOfMicrovmNix asks a real QEMU, with its CPUs stopped, where
// each device is.
func TestGuestsSeeTheSlotsOfMicrovmNix(t *testing.T) {
	const all = `"storeOnDisk":true,"storeDisk":"/srv/vm/store, read only.img","balloon":true,"vsock":{"cid":5},
		"volumes":[{"image":"/srv/vm/a.img","size":1}],"shares":[{"tag":"home","source":"/srv/vm/home"}],
		"interfaces":[{"type":"tap","id":"vm-a","mac":"02:00:00:00:00:01"}],
		"devices":[{"bus":"pci","path":"0000:01:00.0"}]`
	for name, vm := range map[string]struct {
		members string
		want    []string
	}{
		"a card on q35": {
			`"qemu":{"machine":"q35"},"storeOnDisk":true,"storeDisk":"/srv/vm/store, read only.img","interfaces":[{"type":"tap","id":"vm-a","mac":"02:00:00:00:00:01"}],
				"devices":[{"bus":"pci","path":"0000:01:00.0"}]`,
			[]string{"01 virtio-rng", "02 vfio-pci", "03 virtio-blk", "04 virtio-net"},
		},
		"all on q35": {
			`"qemu":{"machine":"q35","pcieRootPorts":[{"id":"p1"}],"extraArgs":["-device","pci-testdev"]},"hotplugMem":512,"graphics":{"enable":true},` + all,
			[]string{"01 virtio-rng", "02 pcie-root-port", "03 vfio-pci", "04 virtio-blk", "05 virtio-vga-gl", "06 qemu-xhci", "07 virtio-balloon", "08 virtio-mem", "09 virtio-blk", "0a virtio-9p", "0b virtio-net", "0c vhost-vsock-pci", "0d pci-testdev"},
		},
		"all on microvm": {
			all,
			[]string{"01 virtio-rng", "02 vfio-pci", "03 virtio-blk", "04 virtio-balloon", "05 virtio-blk", "06 virtio-9p", "07 virtio-net", "08 vhost-vsock-pci"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/srv/vm/vmlinuz","cpu":"max","mem":128,` + vm.members + `}`))
			if err != nil {
				t.Fatal(err)
			}
			got, err := slotsOf(t, s)
			if err != nil {
				t.Fatal(err)
			}
			// Ours, if this QEMU needs it, comes after all others.
			if len(got) > len(vm.want) {
				got = slices.DeleteFunc(got, func(slot string) bool { return strings.HasSuffix(slot, "virtio-serial") && slot == got[len(got)-1] })
			}
			if !slices.Equal(got, vm.want) {
				t.Errorf("got  %v\nwant %v", got, vm.want)
			}
		})
	}
}

// slotsOf returns the devices on the root bus in the order of their slots, each with the
// slot and its name in our command line.
func slotsOf(t *testing.T, s *spec.Spec) ([]string, error) {
	t.Helper()
	graphics := s.Graphics.Enable
	s.Graphics.Enable = false // which newTrial skips
	q := newTrial(t, s)
	s.Graphics.Enable = graphics
	major, minor := qemuVersion(t, q.program)
	var err error
	if q.plan, err = withQEMU(major, minor).Compile(s); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for i, word := range q.plan.Argv {
		switch {
		case word == "gtk,gl=on":
			q.plan.Argv[i] = "none"
		case word == "-M":
			q.plan.Argv[i+1] = strings.Replace(q.plan.Argv[i+1], "accel=kvm:tcg", "accel=tcg", 1)
		case word == "-device":
			name, _, _ := strings.Cut(q.plan.Argv[i+1], ",")
			if standIn, ok := standIns[name]; ok {
				q.plan.Argv[i+1] = standIn
				if name == "vfio-pci" {
					q.plan.Argv[i+1] += ",multifunction=on"
				}
			}
			// QEMU reports the slot of each device, and its name.
			id := fmt.Sprintf("slot%d", len(names))
			if at := strings.Index(q.plan.Argv[i+1], ",id="); at >= 0 {
				id, _, _ = strings.Cut(q.plan.Argv[i+1][at+len(",id="):], ",")
			} else {
				q.plan.Argv[i+1] += ",id=" + id
			}
			names[id] = strings.TrimSuffix(name, "-pci")
			if _, stands := standIns[name]; stands {
				names[id] = name
			}
		}
	}
	var slots []string
	err = inNetworkNamespace(func() error {
		return q.ask(func(ctx context.Context, client *control.QMP) error {
			slots, err = rootBus(ctx, client, names)
			return err
		})
	})
	return slots, err
}

func rootBus(ctx context.Context, client *control.QMP, names map[string]string) ([]string, error) {
	var buses []struct {
		Devices []struct {
			Slot int    `json:"slot"`
			ID   string `json:"qdev_id"`
		} `json:"devices"`
	}
	if err := client.Execute(ctx, "query-pci", nil, &buses); err != nil {
		return nil, err
	}
	if len(buses) == 0 {
		return nil, fmt.Errorf("there is no PCI bus")
	}
	var slots []string
	for _, d := range buses[0].Devices {
		if name, ok := names[d.ID]; ok {
			slots = append(slots, fmt.Sprintf("%02x %s", d.Slot, name))
		}
	}
	slices.Sort(slots)
	return slots, nil
}

// ask starts QEMU, with its CPUs stopped, and ends it after question returns.
func (q *trial) ask(question func(context.Context, *control.QMP) error) error {
	argv, err := q.argv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.program, append(argv[1:], "-S")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.ExtraFiles = &out, &out, q.dir, q.files
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	for {
		client, err := control.DialQMP(ctx, q.dir, *q.spec.Socket.Value)
		if err == nil {
			defer func() { _ = client.Close() }()
			return question(ctx, client)
		}
		select {
		case err := <-ended:
			return fmt.Errorf("QEMU ended: %w: %s\n%s", err, out.String(), strings.Join(argv, "\n"))
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
