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

// updateOrigin returns where a VM is built from, or why it cannot be rebuilt.
func updateOrigin(v statedir.VM) (statedir.Origin, error) {
	from, err := v.Origin()
	switch {
	case err != nil:
		return from, err
	case from.Toplevel != "":
		return from, exit.WithHint(fmt.Errorf("%s is declared by this host's configuration", v.Name), "update it with: nixos-rebuild switch")
	case from.Flake != "":
		return from, checkFlake(from.Flake)
	case from.Spec != "":
		return from, rootsSpec(v.Host, from.Spec)
	case !v.Installed():
		return from, notInstalled(v)
	case from.TakenOver && from.Claimed != "":
		return from, exit.WithHint(fmt.Errorf("%s was taken over from microvm.nix, so its recorded flake %s cannot be trusted", v.Name, from.Claimed),
			"if the flake is right, run: microvm create %s -f %s", v.Name, from.Claimed)
	case !v.Created():
		return from, exit.WithHint(fmt.Errorf("%s was not installed by microvm, so its recorded source cannot be trusted", v.Name),
			"inspect %s, then register it again with: microvm create %s -f FLAKE, or -s SPEC", filepath.Join(v.Dir(), "flake"), v.Name)
	}
	return from, exit.WithHint(fmt.Errorf("%s was created from a package, so it cannot be rebuilt", v.Name),
		"install another package with: install-microvm -p PACKAGE %s", v.Name)
}

// rootsSpec returns an error if somebody else could have changed a spec since it was
// recorded: a spec decides which of the host's directories its guest sees. The user who
// calls sudo is trusted like root.
func rootsSpec(host statedir.Host, path string) error {
	if host.InGuestsReach(path) {
		return exit.WithHint(fmt.Errorf("spec %s is below %s, where guests write", path, host.StateDir),
			"move it, for example to /etc/microvm, and create the VM again from there")
	}
	info, err := os.Stat(path)
	if err != nil {
		return exit.WithHint(fmt.Errorf("spec: %w", err), "restore it, or create the VM again from its new path")
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	owner := strconv.FormatUint(uint64(st.Uid), 10)
	if st.Uid != 0 && owner != os.Getenv("SUDO_UID") {
		return exit.WithHint(fmt.Errorf("spec %s is owned by uid %s, not by root", path, owner), "inspect it, then run: chown root %s", path)
	}
	if info.Mode()&0o022 != 0 {
		return exit.WithHint(fmt.Errorf("spec %s is writable by other users than its owner", path), "inspect it, then run: chmod go-w %s", path)
	}
	return nil
}
