package e2e

import (
	"strings"
	"testing"
)

// TestTheDemoShowsAVMsLife runs what make demo runs, from the spec to the stop.
func TestTheDemoShowsAVMsLife(t *testing.T) {
	in(t, "container")
	t.Cleanup(func() { _, _ = try("systemctl stop microvm@hello; microvm rm --yes hello; rm -rf /root/hello") })
	out := sh(t, "/usr/lib/microvm-test/demo")
	for _, want := range []string{"test guest is up", "3 received, 0% packet loss", "marker written and synced to /data", "nothing is left"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}
	nothingLeft(t, "hello")
}
