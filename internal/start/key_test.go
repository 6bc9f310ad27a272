package start

import (
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/guest"
	"microvm/internal/hypervisor"
)

// TestAGuestGetsAKeyOfItsOwn, and the stop has its private key, which no other user
// may read.
func TestAGuestGetsAKeyOfItsOwn(t *testing.T) {
	given, cid := map[string]bool{}, int64(3)
	for range 2 {
		file := filepath.Join(t.TempDir(), "seen")
		s := launch(t, pack(t, &hypervisor.Plan{
			Argv: []string{self(t), "key=" + hypervisor.ShutdownKey}, Env: []string{roleShow + "=" + file},
			VsockCID: &cid,
			Shutdown: hypervisor.Shutdown{Method: hypervisor.ShutdownGuestOverSSH, SSH: &hypervisor.SSH{
				Key: hypervisor.ShutdownKeyFile, Command: "go down", VsockSocket: "v.sock",
			}},
		}))
		text, _ := strings.CutPrefix(seen(t, file).Args[1], "key=")
		line, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("the guest was given %q: %v", text, err)
		}
		given[string(line)] = true
		info, err := os.Stat(filepath.Join(s.dir, hypervisor.ShutdownKeyFile))
		if err != nil || info.Mode() != 0o600 {
			t.Fatalf("the key is %v, %v; nobody else may read it", info.Mode(), err)
		}
		k, err := guest.ReadKey(s.dir, hypervisor.ShutdownKeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if k.PID != s.cmd.Process.Pid {
			t.Errorf("the key is of process %d; the hypervisor is %d", k.PID, s.cmd.Process.Pid)
		}
		// The last 32 bytes of the wire format are the public key, RFC 8709.
		_, encoded, _ := strings.Cut(string(line), " ")
		wire, err := base64.StdEncoding.DecodeString(encoded)
		public, ok := k.Private.Public().(ed25519.PublicKey)
		if err != nil || !ok || !strings.HasSuffix(string(wire), string(public)) {
			t.Errorf("the guest was given %q, which is not the half of what was left (%v)", line, err)
		}
	}
	if len(given) != 2 {
		t.Error("the second start has the first one's key")
	}
}
