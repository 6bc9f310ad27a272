// Package statedir keeps the state of the VMs of one host (contract 3 of the
// design): /var/lib/microvms/NAME with its links to runner packages, the store
// of packages on hosts without Nix, and the records that the helpers keep in
// /run/microvm/NAME.
//
// Every change is a new file and a rename: a crash at any instruction leaves
// the old state or the new one.
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

// Host is where the VMs of a host live, and as whom they run.
type Host struct {
	// StateDir holds one directory a VM.
	StateDir string
	// RuntimeDir holds the helpers' records, one directory a VM.
	RuntimeDir string
	// UnitDir holds the drop-ins by which a VM's unit pulls in its helpers.
	UnitDir string
	// GCRoots is where Nix looks for garbage collector roots.
	GCRoots string
	// LibexecDir holds the helpers' programs; empty means that they are below
	// /usr or in the Nix store.
	LibexecDir string
	// SystemdVersion tells which systemd is to read what is written for it, 0 where
	// that is not known. It may be nil.
	SystemdVersion func() int
	// User and Group are the account of the hypervisors.
	User, Group string
}

// HostFromEnv returns the host's settings: the variables MICROVM_STATE_DIR,
// MICROVM_RUNTIME_DIR, MICROVM_USER, MICROVM_GROUP and MICROVM_UNIT_DIR, each
// with its default.
func HostFromEnv() Host {
	return Host{
		StateDir:   envDir("MICROVM_STATE_DIR", "/var/lib/microvms"),
		RuntimeDir: envDir("MICROVM_RUNTIME_DIR", "/run/microvm"),
		// /etc/systemd/system is read-only on NixOS; this directory is part of
		// the search path as well, systemd.unit(5).
		UnitDir: envDir("MICROVM_UNIT_DIR", "/etc/systemd/system.control"),
		GCRoots: "/nix/var/nix/gcroots",
		User:    env("MICROVM_USER", "microvm"),
		Group:   env("MICROVM_GROUP", "kvm"),
	}
}

// envDir is a directory, absolute: links to it are read from elsewhere.
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

// Account is User with Group, and all other groups that the user is in.
func (h Host) Account() (account.Account, error) {
	a, err := account.Lookup(h.User)
	if err != nil {
		return a, fmt.Errorf("find the hypervisors' account: %w; systemd-sysusers creates it", err)
	}
	if a.GID, err = account.Group(h.Group); err != nil {
		return a, fmt.Errorf("find the hypervisors' group: %w; systemd-sysusers creates it", err)
	}
	return a, nil
}

// VM is one VM of a host.
type VM struct {
	Host Host
	Name string
}

// VM returns the VM of that name, which need not exist. Names are validated
// here, once.
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

// RuntimeDir is where the helpers keep what they did for the VM.
func (v VM) RuntimeDir() string { return filepath.Join(v.Host.RuntimeDir, v.Name) }

// Exists says whether the VM has a state directory.
func (v VM) Exists() bool {
	info, err := os.Lstat(v.Dir())
	return err == nil && info.IsDir() && !v.vacant()
}

// Current opens the installed package, which has to be root's.
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
