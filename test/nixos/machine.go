package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"microvm/test/nspawn"
)

const (
	bootTimeout = 5 * time.Minute
	// patience is how long a test waits for what has to happen. It costs nothing
	// where that happens soon.
	patience = 2 * time.Minute
)

// machine is a host that has booted a generation in a container.
type machine struct {
	*nspawn.Container
	ctx     context.Context
	systems map[string]string
	// switches counts the generations of its profile.
	switches int
}

// boot lays an empty /etc and /var over the root, next to the store, and
// starts a generation's stage 2, as NixOS' initrd or nspawn does.
func boot(ctx context.Context, b *builder, systems map[string]string, generation string) (*machine, error) {
	toplevel := systems[generation]
	if toplevel == "" {
		return nil, fmt.Errorf("generation %s not found", generation)
	}
	m := &machine{ctx: ctx, systems: systems}
	// Units are in /etc/systemd/system only; Debian's own would be found as well.
	const layout = `cd "$1"
mv etc/alternatives .alternatives
rm -rf etc var usr/lib/systemd/system usr/lib/systemd/user
mkdir -p etc var/empty nix/store nix/var/nix/profiles nix/var/nix/gcroots
mv .alternatives etc/alternatives
ln -s system-1-link nix/var/nix/profiles/system
ln -s "$2" nix/var/nix/profiles/system-1-link`
	m.switches = 1
	c, err := nspawn.Boot(ctx, nspawn.System{
		Root: b.root,
		Name: "microvm-nixos",
		Lay: func(tree string) error {
			_, err := command(ctx, "sh", "-euc", layout, "sh", tree, toplevel)
			return err
		},
		Args:        []string{"--bind=" + b.store() + ":/nix/store", toplevel + "/init"},
		Timeout:     bootTimeout,
		Environment: []string{"PATH=/run/current-system/sw/bin:/usr/bin", "HOME=/root"},
	})
	m.Container = c
	return m, err
}

// failure ends a test, as testing.T's FailNow does.
type failure string

func (m *machine) fatalf(format string, args ...any) {
	panic(failure(fmt.Sprintf(format, args...)))
}

func (m *machine) step(format string, args ...any) {
	fmt.Printf("    %s\n", strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n    "))
}

// why is what the host has to say of a failure.
func (m *machine) why() string {
	out, _ := m.try("systemctl --failed --no-legend --plain; journalctl -q --no-pager -o short -n 300 | grep -vE 'skipped, unmet|tmpfiles|: \\[ +[0-9.]+\\]|blob data|KASLR|EDD|stand-in' | tail -60")
	return out
}

// try runs a script in the host and returns what it printed.
func (m *machine) try(script string) (string, error) {
	out, err := m.Command(m.ctx, "/usr/bin/bash", "-uo", "pipefail", "-c", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *machine) sh(script string) string {
	out, err := m.try(script)
	if err != nil {
		m.fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// want runs a script and compares what it prints.
func (m *machine) want(script, want string) {
	if got, _ := m.try(script); got != want {
		m.fatalf("%s\nprinted %q, not %q", script, got, want)
	}
}

// eventually waits until a script succeeds.
func (m *machine) eventually(script string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := m.try(script)
		if err == nil {
			return
		}
		if time.Now().After(deadline) || m.HasEnded() || m.ctx.Err() != nil {
			m.fatalf("%s: not within %s: %v\n%s", script, patience, err, out)
		}
	}
}

// profile makes a generation the profile's newest, as nix-env --set does.
func (m *machine) profile(generation string) {
	m.switches++
	dir := filepath.Join(m.Tree(), "nix/var/nix/profiles")
	link := fmt.Sprintf("system-%d-link", m.switches)
	err := errors.Join(os.Symlink(m.systems[generation], filepath.Join(dir, link)),
		os.Symlink(link, filepath.Join(dir, "system.new")),
		os.Rename(filepath.Join(dir, "system.new"), filepath.Join(dir, "system")))
	if err != nil {
		m.fatalf("%v", err)
	}
}

// do runs switch-to-configuration of a generation as nixos-rebuild does, and
// returns its output and exit code.
func (m *machine) do(action, generation string) (string, int) {
	toplevel := m.systems[generation]
	if toplevel == "" {
		m.fatalf("generation %s not found", generation)
	}
	if action == "switch" || action == "boot" {
		m.profile(generation)
	}
	began := time.Now()
	out, err := m.try("systemd-run --quiet --collect --pipe --wait --service-type=exec --unit=nixos-rebuild-switch-to-configuration " +
		"--setenv=PATH --setenv=LOCALE_ARCHIVE= --setenv=NIXOS_INSTALL_BOOTLOADER= " + toplevel + "/bin/switch-to-configuration " + action)
	var exit *exec.ExitError
	code := 0
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		m.fatalf("%s %s: %v", action, generation, err)
	}
	m.step("%s %s: exit code %d, %.1f s", action, generation, code, time.Since(began).Seconds())
	return out, code
}

// must is do for what has to end well.
func (m *machine) must(action, generation string) string {
	out, code := m.do(action, generation)
	if code != 0 {
		m.fatalf("%s %s: exit code %d\n%s", action, generation, code, out)
	}
	return out
}
