package hypervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// compileCH compiles for a version of Cloud Hypervisor; 0 means unknown.
func compileCH(t *testing.T, version int, members string) *Plan {
	t.Helper()
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","hypervisor":"cloud-hypervisor","kernel":"/k",` + members + `}`))
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	p, err := (&Builder{Version: func(string) (int, int, error) {
		if version == 0 {
			return 0, 0, errors.New("not installed")
		}
		return version, 0, nil
	}}).Compile(s)
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	return p
}

// TestCloudHypervisorIsConfinedWhereItCanBe: the plan has the arguments separately, for hosts
// with Landlock, or always in the command line if extraArgs have them.
func TestCloudHypervisorIsConfinedWhereItCanBe(t *testing.T) {
	const (
		dir = "--landlock --landlock-rules path=.,access=rw"
		net = " path=/sys/devices/virtual/net,access=r"
	)
	extra := func(args string) string { return `"cloud-hypervisor":{"extraArgs":[` + args + `]}` }
	for name, c := range map[string]struct {
		version         int
		members         string
		landlock, inAny string
	}{
		"a new one":             {53, `"mem":256`, dir, ""},
		"with a tap":            {41, interfaces(1, "tap"), dir + net, ""},
		"with a macvtap":        {53, macvtap, dir, ""},
		"too old":               {40, interfaces(1, "tap"), "", ""},
		"of unknown version":    {0, `"mem":256`, "", ""},
		"with a device":         {53, passthrough, "", ""},
		"with graphics":         {53, `"graphics":{"enable":true}`, "", ""},
		"turned off":            {53, `"cloud-hypervisor":{"landlock":false}`, "", ""},
		"with rules":            {53, extra(`"--landlock-rules","path=/a,access=r","path=/b,access=rw","--pvpanic"`), dir + " path=/a,access=r path=/b,access=rw", ""},
		"with one rule":         {53, extra(`"--pvpanic","--landlock-rules=path=/a,access=r"`), dir + " path=/a,access=r", ""},
		"asked for":             {0, extra(`"--landlock","--landlock-rules","path=/a,access=r","--pvpanic"`) + "," + interfaces(1, "tap"), "", dir + net + " path=/a,access=r --pvpanic"},
		"asked for and off":     {53, `"cloud-hypervisor":{"landlock":false,"extraArgs":["--landlock"]}`, "", dir},
		"with rules for others": {40, extra(`"--landlock-rules","path=/a,access=r","--pvpanic"`), "", "--pvpanic --landlock-rules path=/a,access=r"},
	} {
		t.Run(name, func(t *testing.T) {
			p := compileCH(t, c.version, c.members)
			if got := strings.Join(p.Landlock, " "); got != c.landlock {
				t.Errorf("with Landlock in the kernel: %q, want %q", got, c.landlock)
			}
			argv := strings.Join(p.Argv, " ")
			if !strings.HasSuffix(argv, c.inAny) || c.inAny == "" && strings.Contains(argv, "landlock") {
				t.Errorf("always: %q, want … %q", argv, c.inAny)
			}
			if n := strings.Count(strings.Join(slices.Concat(p.Argv, p.Landlock), " "), "--landlock-rules"); n > 1 {
				t.Errorf("--landlock-rules appears %d times, and only one counts", n)
			}
		})
	}
}
