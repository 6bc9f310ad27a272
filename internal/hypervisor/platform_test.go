package hypervisor

import (
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// TestCloudHypervisorsOwnArgumentsCount: extraArgs may repeat what the spec has, and set what
// microvm.nix leaves to them.
func TestCloudHypervisorsOwnArgumentsCount(t *testing.T) {
	const id = "11111111-2222-3333-4444-555555555555"
	for members, want := range map[string]string{
		`"vsock":{"cid":5},"cloud-hypervisor":{"extraArgs":["--vsock","cid=5,socket=v.sock"]}`:                 "--vsock cid=5,socket=v.sock",
		`"vsock":{"cid":5},"cloud-hypervisor":{"extraArgs":["--vsock=socket=v.sock"]}`:                         "--vsock cid=5,socket=v.sock",
		`"cloud-hypervisor":{"extraArgs":["--vsock","cid=5,socket=v.sock"]}`:                                   "--vsock cid=5,socket=v.sock",
		`"vsock":{"cid":6},"cloud-hypervisor":{"extraArgs":["--vsock","cid=5,socket=v.sock"]}`:                 "",
		`"vsock":{"cid":6},"cloud-hypervisor":{"extraArgs":["--vsock","cid=five"]}`:                            "",
		`"machineId":"` + id + `","cloud-hypervisor":{"extraArgs":["--platform","serial_number=7"]}`:           "system_uuid=" + id + ",serial_number=7",
		`"machineId":"` + id + `","cloud-hypervisor":{"extraArgs":["--platform","system_uuid=x"]}`:             "system_uuid=x",
		`"machineId":"` + id + `","cloud-hypervisor":{"extraArgs":["--platform","uuid=x,num_pci_segments=2"]}`: "uuid=x,num_pci_segments=2",
	} {
		p, err := compileFor(t, "cloud-hypervisor", members)
		if want == "" {
			if got := faultsOf(t, "cloud-hypervisor", members); !slices.Contains(got, "cloud-hypervisor.extraArgs") {
				t.Errorf("%s: refused %v", members, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", members, err)
			continue
		}
		text := strings.Join(p.Argv, " ")
		if !strings.Contains(text, want) || strings.Count(text, "uuid=") > 1 {
			t.Errorf("%s: want %s in\n%s", members, want, text)
		}
		if strings.Contains(members, "vsock") && (p.VsockCID == nil || *p.VsockCID != 5 || p.Readiness.VsockSocket != "v.sock") {
			t.Errorf("%s: CID %v, socket %q", members, p.VsockCID, p.Readiness.VsockSocket)
		}
	}
}

// TestCloudHypervisorsUUIDHasItsNameOfTheVersion: 53 renamed the key.
func TestCloudHypervisorsUUIDHasItsNameOfTheVersion(t *testing.T) {
	const id = "11111111-2222-3333-4444-555555555555"
	for major, want := range map[int]string{38: "uuid=", 52: "uuid=", 53: "system_uuid=", 54: "system_uuid="} {
		p := compileVersion(t, "cloud-hypervisor", `"machineId":"`+id+`"`, major)
		i := slices.Index(p.Argv, "--platform")
		if i < 0 || p.Argv[i+1] != want+id && !strings.HasSuffix(p.Argv[i+1], ","+want+id) {
			t.Errorf("%d: %q, want %s", major, p.Argv, want+id)
		}
	}
}

// compileVersion compiles for that version of a hypervisor.
func compileVersion(t *testing.T, hypervisor, members string, major int) *Plan {
	t.Helper()
	s, err := spec.Parse([]byte(`{"name":"web","hypervisor":"` + hypervisor + `","arch":"x86_64","kernel":"/k",` + members + `}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&Builder{Version: func(string) (int, int, error) { return major, 0, nil }}).Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
