package hypervisor

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// sshCredential is the credential by which the sshd that a systemd guest has on
// vsock knows the host's key, systemd.system-credentials(7), since systemd 256.
const sshCredential = "ssh.ephemeral-authorized_keys-all"

// keyCredential hands over the public key. The kernel's command line is the one
// way that every hypervisor has: the name is too long for fw_cfg, and several
// have no SMBIOS. In base64, because the key's line has spaces, and public in any
// case: the command line is read by whoever is in the guest.
const keyCredential = "systemd.set_credential_binary=" + sshCredential + ":" + ShutdownKey

// ShutdownKeyFile is where the private key is, in the state directory.
const ShutdownKeyFile = ".shutdown-key"

// ed25519Line is the length of an Ed25519 key's line in authorized_keys: RFC
// 8709's 51 bytes in base64, behind their name.
const ed25519Line = len("ssh-ed25519 ") + 68

// What is longer than any value of its placeholder.
var (
	longestKey  = strings.Repeat("x", base64.StdEncoding.EncodedLen(ed25519Line))
	longestPort = "4294967295"
)

// kernelLineLength is the most bytes that a kernel's command line has at a start.
func kernelLineLength(line string) (int, error) {
	text, err := Expand(line, func(name string) (string, error) {
		if placeholderOpen+name+placeholderClose == ShutdownKey {
			return longestKey, nil
		}
		return longestPort, nil
	})
	return len(text), err
}

// viaGuest is the shutdown of a hypervisor that cannot ask its guest, and why:
// the guest is asked itself, where it can be reached, or not at all. vsockSocket
// is the hypervisor's multiplexer, where it has one.
func viaGuest(s *spec.Spec, why, vsockSocket string) (Shutdown, error) {
	table, err := Table()
	if err != nil {
		return Shutdown{}, err
	}
	own := table[s.Hypervisor]
	taken := slices.ContainsFunc(s.KernelParams, func(p string) bool { return strings.Contains(p, sshCredential) })
	switch {
	case own.Vsock == "none" || s.Vsock.CID == nil:
		return noWayDown(why + ", and without vsock.cid its guest cannot be reached"), nil
	case !*s.Vsock.SSH.Shutdown:
		return noWayDown(why + ", and vsock.ssh.shutdown is false"), nil
	case taken:
		return noWayDown(why + ", and kernelParams gives the guest a " + sshCredential + " of its own"), nil
	}
	verb, does := "reboot", "to reboot, which ends the hypervisor,"
	if slices.Contains(own.PowerOff, s.Arch) {
		verb, does = "poweroff", "to power off"
	}
	return Shutdown{
		Method: ShutdownGuestOverSSH,
		SSH: &SSH{
			Key: ShutdownKeyFile,
			// What inhibits a shutdown would not stop the SIGTERM that comes next.
			Command:     fmt.Sprintf("systemctl %[1]s -i || %[1]s", verb),
			VsockSocket: vsockSocket,
		},
		Why: fmt.Sprintf("%s, so its guest is asked %s over ssh on vsock (needs sshd in the guest), else SIGTERM", why, does),
	}, nil
}

// noWayDown is the shutdown of a hypervisor that cannot ask its guest.
func noWayDown(why string) Shutdown {
	return Shutdown{Method: ShutdownNone, Why: why + ": it gets SIGTERM at once, and the guest loses what it has not synced"}
}

// shutdownWords are what the guest's kernel needs on its command line for p.
func shutdownWords(p *Plan) []string {
	if p.Shutdown.Method != ShutdownGuestOverSSH {
		return nil
	}
	return []string{keyCredential}
}
