package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

// updateOrigin says where a VM is built from, or why it cannot be.
func updateOrigin(v statedir.VM) (statedir.Origin, error) {
	from, err := v.Origin()
	switch {
	case err != nil:
		return from, err
	case from.Toplevel != "":
		return from, fmt.Errorf("%s is declared by this host, and is updated with it; change its config and run nixos-rebuild switch", v.Name)
	case from.Flake != "":
		return from, checkFlake(from.Flake)
	case from.Spec != "":
		return from, rootsSpec(v.Host, from.Spec)
	case !v.Installed():
		return from, notInstalled(v)
	case from.TakenOver && from.Claimed != "":
		return from, exit.WithHint(fmt.Errorf("%s was taken over from microvm.nix, and its directory named flake %s, which a guest could have written", v.Name, from.Claimed),
			"where that is right, run: microvm create %s -f %s", v.Name, from.Claimed)
	case !v.Created():
		return from, fmt.Errorf("%[1]s was not installed by this program, and what its directory says of where it comes from a guest could have written; look at %[2]s, and say it again with: microvm create %[1]s -f FLAKE, or -s SPEC", v.Name, filepath.Join(v.Dir(), "flake"))
	}
	return from, fmt.Errorf("%s was made from a package, and nothing says how to build it anew; install another one with: install-microvm -p PACKAGE %s", v.Name, v.Name)
}

// rootsSpec refuses a spec that somebody else could have changed since it was
// recorded: who writes a spec chooses which of the host's directories its guest
// sees. The person who calls sudo is trusted as root is.
func rootsSpec(host statedir.Host, path string) error {
	if host.InGuestsReach(path) {
		return fmt.Errorf("spec %s is below %s, where guests write, who would decide what root installs; move it, to /etc/microvm for example, and create the VM anew from there", path, host.StateDir)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at spec: %w; put it back, or create the VM anew from where it is now", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	owner := strconv.FormatUint(uint64(st.Uid), 10)
	if st.Uid != 0 && owner != os.Getenv("SUDO_UID") {
		return fmt.Errorf("spec %s belongs to user %s, who would decide what root installs; make it root's with: chown root %s", path, owner, path)
	}
	if info.Mode()&0o022 != 0 {
		return fmt.Errorf("spec %s can be written by others than its owner, who would decide what root installs; forbid it with: chmod go-w %s", path, path)
	}
	return nil
}
