package statedir

import (
	"fmt"
	"os"
	"path/filepath"

	"microvm/internal/account"
	"microvm/internal/exit"
	"microvm/internal/runner"
	"microvm/internal/spec"
)

// Host are the directories of a host's VMs, and the account that they run as.
type Host struct {
	// StateDir contains a directory for each VM.
	StateDir string
	// RuntimeDir contains the helpers' records, in a directory for each VM.
	RuntimeDir string
	// UnitDir contains the drop-ins with which a VM's unit pulls in its helpers.
	UnitDir string
	// GCRoots is the directory of Nix's garbage collector roots.
	GCRoots string
	// LibexecDir contains the helpers' programs. If it is empty, they are below /usr or
	// in the Nix store.
	LibexecDir string
	// SystemdVersion returns the version of systemd for which units are written, 0 if
	// it is not known. It may be nil.
	SystemdVersion func() int
	// User and Group are the account of the hypervisors.
	User, Group string
}

// HostFromEnv returns the host's settings from the variables MICROVM_STATE_DIR,
// MICROVM_RUNTIME_DIR, MICROVM_USER, MICROVM_GROUP and MICROVM_UNIT_DIR, or their
// defaults.
func HostFromEnv() Host {
	return Host{
		StateDir:   envDir("MICROVM_STATE_DIR", "/var/lib/microvms"),
		RuntimeDir: envDir("MICROVM_RUNTIME_DIR", "/run/microvm"),
		// /etc/systemd/system is read-only on NixOS. This directory is in the search
		// path as well, systemd.unit(5).
		UnitDir: envDir("MICROVM_UNIT_DIR", "/etc/systemd/system.control"),
		GCRoots: "/nix/var/nix/gcroots",
		User:    env("MICROVM_USER", "microvm"),
		Group:   env("MICROVM_GROUP", "kvm"),
	}
}

// envDir is env for a directory, whose path it makes absolute: links contain it.
func envDir(name, def string) string {
	dir := env(name, def)
	if whole, err := filepath.Abs(dir); err == nil {
		return whole
	}
	return dir
}

func env(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// Account returns the account of User with the primary group Group, and all other
// groups of the user.
func (h Host) Account() (account.Account, error) {
	const hint = "run: systemd-sysusers"
	a, err := account.Lookup(h.User)
	if err != nil {
		return a, exit.WithHint(fmt.Errorf("look up the hypervisors' user: %w", err), hint)
	}
	if a.GID, err = account.Group(h.Group); err != nil {
		return a, exit.WithHint(fmt.Errorf("look up the hypervisors' group: %w", err), hint)
	}
	return a, nil
}

// VM is one VM of a host.
type VM struct {
	Host Host
	Name string
}

// VM returns the VM of that name, which need not exist. It validates the name, so
// other functions need not.
func (h Host) VM(name string) (VM, error) {
	if err := spec.ValidateVMName(name); err != nil {
		return VM{}, err
	}
	if _, err := h.RealStateDir(); err != nil {
		return VM{}, err
	}
	return VM{Host: h, Name: name}, nil
}

// Dir is the VM's state directory and working directory.
func (v VM) Dir() string { return filepath.Join(v.Host.StateDir, v.Name) }

// RuntimeDir is the directory of the helpers' records for the VM.
func (v VM) RuntimeDir() string { return filepath.Join(v.Host.RuntimeDir, v.Name) }

// Exists reports whether the VM has a state directory.
func (v VM) Exists() bool {
	info, err := os.Lstat(v.Dir())
	return err == nil && info.IsDir() && !v.vacant()
}

// Current opens the installed package, after checking that only root can change it. The
// caller closes the package.
func (v VM) Current() (*runner.Package, error) { return v.open("current") }

func (v VM) open(link string) (*runner.Package, error) {
	if !v.Exists() {
		return nil, v.notFound()
	}
	return v.follow(filepath.Join(v.Dir(), link))
}

func (v VM) notFound() error {
	return exit.WithHint(fmt.Errorf("VM %q not found in %s", v.Name, v.Host.StateDir), "create it with: microvm create %s -s SPEC", v.Name)
}

func (v VM) follow(link string) (*runner.Package, error) {
	p, err := v.Host.openTrusted(link)
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", link, err)
	}
	return p, nil
}
