package vm

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// newVM returns a VM on a host of its own.
func newVM(t *testing.T) statedir.VM {
	t.Helper()
	dir := t.TempDir()
	v := statedir.VM{Host: statedir.Host{StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run")}, Name: "web"}
	if err := errors.Join(os.MkdirAll(v.Dir(), 0o755), os.MkdirAll(v.RuntimeDir(), 0o755)); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheRunnerInUseIsComparedWithTheInstalledOne(t *testing.T) {
	for want, links := range map[string][2]string{
		RunnerDataOnly:  {"", ""},
		RunnerNotBooted: {"/p/1", ""},
		RunnerCurrent:   {"/p/1", "/p/1"},
		RunnerStale:     {"/p/2", "/p/1"},
	} {
		v := newVM(t)
		for path, target := range map[string]string{filepath.Join(v.Dir(), "current"): links[0], filepath.Join(v.RuntimeDir(), "booted"): links[1]} {
			if target == "" {
				continue
			}
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
		if r := Describe(v); r.Runner != want || r.Current != links[0] || r.Booted != links[1] || r.State != "inactive" || r.Hypervisor != "-" {
			t.Errorf("with %q: %+v, want %s", links, r, want)
		}
	}
}

func TestLinkLocalAddressesAreShownWhereThereAreNoOthers(t *testing.T) {
	const one, two = "02:00:00:00:00:01", "02:00:00:00:00:02"
	plan := &hypervisor.Plan{Interfaces: []hypervisor.Interface{{MAC: two}, {MAC: one}, {}, {MAC: one}}}
	if got := macs(plan); !slices.Equal(got, []string{one, two}) {
		t.Errorf("addresses of the interfaces: %q", got)
	}
	local, global := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("10.0.0.2")
	for name, c := range map[string]struct {
		seen map[string][]netip.Addr
		want []string
	}{
		"none":  {nil, []string{"vsock:3"}},
		"local": {map[string][]netip.Addr{one: {local}, two: {local}}, []string{"fe80::1", "vsock:3"}},
		"both":  {map[string][]netip.Addr{one: {local}, two: {global}}, []string{"10.0.0.2", "vsock:3"}},
	} {
		r := Row{MACs: macs(plan), Addresses: []string{"vsock:3"}}
		r.addresses(c.seen)
		if !slices.Equal(r.Addresses, c.want) {
			t.Errorf("%s: %q, want %q", name, r.Addresses, c.want)
		}
	}
}

func TestOneForegroundKeepsTheNextAway(t *testing.T) {
	v := newVM(t)
	unlock, err := LockForeground(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockForeground(v); err == nil || !strings.Contains(err.Error(), "web is already running in the foreground in another terminal") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	unlock, err = LockForeground(v)
	if err != nil {
		t.Fatalf("once the first has ended: %v", err)
	}
	unlock()
	if _, err := LockForeground(statedir.VM{Host: v.Host, Name: "nobody"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}
