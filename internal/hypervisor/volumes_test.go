package hypervisor

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/spec"
)

// TestWhoLocksAVolume for each hypervisor, with the newest version and with an unknown one.
// A hypervisor that locks its images must not find our lock on them; any other one must
// keep it.
func TestWhoLocksAVolume(t *testing.T) {
	newest := func(string) (int, int, error) { return 1 << 20, 0, nil }
	ch := func(minor int) func(string) (int, int, error) {
		return func(string) (int, int, error) { return minor, 0, nil }
	}
	for _, c := range []struct {
		hypervisor     string
		version        func(string) (int, int, error)
		writer, reader bool // keep the lock
		probed         bool
		shared         string // what stands for shared, or "" where it is refused
		unlocked       string // what stands for no lock of a reader's
	}{
		{"qemu", newest, false, true, false, "share-rw=on", "file.locking=off"},
		{"qemu", nil, false, true, false, "share-rw=on", "file.locking=off"},
		{"cloud-hypervisor", newest, false, false, false, "", ""},
		{"cloud-hypervisor", nil, false, false, false, "", ""},
		{"cloud-hypervisor", ch(46), false, false, true, "", ""},
		{"cloud-hypervisor", ch(45), true, true, true, "", ""},
		{"firecracker", newest, true, true, false, "b.img", ""},
		{"crosvm", newest, true, true, true, "lock=false", ""},
		{"kvmtool", newest, true, true, true, "b.img", ""},
		{"stratovirt", newest, false, false, false, "", ""},
		{"alioth", newest, true, true, false, "b.img", ""},
	} {
		b := &Builder{Version: c.version}
		parse := func(volumes string) (*Plan, error) {
			file := filepath.Join(t.TempDir(), "spec.json")
			s, err := parseWithRules(t, file, fmt.Sprintf(`{"name":"web","arch":"x86_64","kernel":"/k","initrdPath":"/i","storeDisk":"/s","hypervisor":%q,"volumes":[%s]}`, c.hypervisor, volumes))
			if err != nil {
				return nil, err
			}
			return b.Compile(s)
		}
		p, err := parse(`{"image":"a.img","size":1},{"image":"/b.img","autoCreate":false,"readOnly":true}`)
		if err != nil {
			t.Fatalf("%s: %v", c.hypervisor, err)
		}
		if w, r := p.Volumes[0], p.Volumes[1]; w.KeepLock != c.writer || r.KeepLock != c.reader || w.Probed != c.probed || r.Probed != c.probed {
			t.Errorf("%s: %+v and %+v, want %+v", c.hypervisor, w, r, c)
		}
		line := strings.Join(p.Argv, " ")
		if c.unlocked != "" && strings.Count(line, c.unlocked) != 2 { // the store's disk, and what is only read
			t.Errorf("%s: %s, want %s twice", c.hypervisor, line, c.unlocked)
		}
		p, err = parse(`{"image":"/b.img","autoCreate":false,"shared":true}`)
		if c.shared == "" {
			if err == nil || !strings.Contains(exit.Text(err), " does not support volumes that several VMs write\nhint: supported by: alioth, crosvm, firecracker, kvmtool, qemu") {
				t.Errorf("%s: %v, want it refused with those that can", c.hypervisor, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.hypervisor, err)
		}
		line = strings.Join(p.Argv, " ")
		for _, g := range p.Generated {
			line += g.Content
		}
		if !p.Volumes[0].Shared || !strings.Contains(line, c.shared) {
			t.Errorf("%s: %s, want %s", c.hypervisor, line, c.shared)
		}
	}
}

func TestOnlyRawImagesAreShared(t *testing.T) {
	file := filepath.Join(t.TempDir(), "spec.json")
	const document = `{"name":"web","kernel":"/k","volumes":[{"image":"a","autoCreate":false,"imageType":"qcow2","shared":true,"readOnly":%v}]}`
	if _, err := parseWithRules(t, file, fmt.Sprintf(document, false)); err == nil || !strings.Contains(exit.Text(err), "volumes[0].shared: a qcow2 image can be written by one VM at a time\nhint: ") {
		t.Errorf("%v", err)
	}
	var s *spec.Spec
	s, err := parseWithRules(t, file, fmt.Sprintf(document, true))
	if err != nil || !s.Volumes[0].Shared {
		t.Errorf("%v", err)
	}
}
