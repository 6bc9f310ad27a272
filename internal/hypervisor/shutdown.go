package hypervisor

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// sshCredential is the credential with the host's key for the sshd that a systemd guest
// runs on vsock, see systemd.system-credentials(7). It exists since systemd 256.
const sshCredential = "ssh.ephemeral-authorized_keys-all"

// keyCredential passes the public key on the kernel's command line, the only way that all
// hypervisors have: the name is too long for fw_cfg, and several have no SMBIOS. It is in
// base64, as the key's line has spaces. Every process of the guest can read it, which is
// no harm for a public key.
const keyCredential = "systemd.set_credential_binary=" + sshCredential + ":" + ShutdownKey

// ShutdownKeyFile is the path of the private key in the state directory.
const ShutdownKeyFile = ".shutdown-key"

// ed25519Line is the length of an Ed25519 key's line in authorized_keys: its type, and the
// 51 bytes of RFC 8709 in base64.
const ed25519Line = len("ssh-ed25519 ") + 68

// Values at least as long as any value of their placeholders.
var (
	longestKey  = strings.Repeat("x", base64.StdEncoding.EncodedLen(ed25519Line))
	longestPort = "4294967295"
)

// kernelLineLength returns the maximum length of a kernel's command line, in bytes, with
// its placeholders expanded.
func kernelLineLength(line string) (int, error) {
	text, err := Expand(line, func(name string) (string, error) {
		if placeholderOpen+name+placeholderClose == ShutdownKey {
			return longestKey, nil
		}
		return longestPort, nil
	})
	return len(text), err
}

// viaGuest returns the shutdown for a hypervisor that cannot ask its guest, for the reason
// why: over SSH if the guest can be reached, or none. vsockSocket is the hypervisor's vsock
// multiplexer; empty means vhost-vsock.
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
			// An inhibitor lock would not stop the SIGTERM that follows either.
			Command:     fmt.Sprintf("systemctl %[1]s -i || %[1]s", verb),
			VsockSocket: vsockSocket,
		},
		Why: fmt.Sprintf("%s, so the guest is asked %s over ssh on vsock (needs sshd in the guest), else SIGTERM", why, does),
	}, nil
}

// noWayDown returns the shutdown without a graceful way, for the reason why.
func noWayDown(why string) Shutdown {
	return Shutdown{Method: ShutdownNone, Why: why + ": it gets SIGTERM at once, and the guest loses what it has not synced"}
}

// shutdownWords returns the kernel's arguments that the shutdown of p needs.
func shutdownWords(p *Plan) []string {
	if p.Shutdown.Method != ShutdownGuestOverSSH {
		return nil
	}
	return []string{keyCredential}
}
