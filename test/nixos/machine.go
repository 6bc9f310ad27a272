package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bootTimeout = 5 * time.Minute
	// patience is how long a test waits for what has to happen. It costs nothing
	// where that happens soon.
	patience = 2 * time.Minute
)

// machine is a host that has booted a generation in a container.
type machine struct {
	ctx     context.Context
	dir     string
	systems map[string]string
	nspawn  *exec.Cmd
	leader  int
	ended   chan struct{}
	// switches counts the generations of its profile.
	switches int
}

// boot lays an empty /etc and /var over the root and the store beside it, and
// starts a generation's stage 2, as NixOS' initrd or nspawn does.
func boot(ctx context.Context, b builder, systems map[string]string, generation string) (m *machine, err error) {
	toplevel := systems[generation]
	if toplevel == "" {
		return nil, fmt.Errorf("there is no generation %s", generation)
	}
	dir, err := os.MkdirTemp("/var/tmp", "microvm-nixos-")
	if err != nil {
		return nil, err
	}
	m = &machine{ctx: ctx, dir: dir, systems: systems, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.remove())
		}
	}()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil { //nolint:gosec // a root of a system
			return m, err
		}
	}
	if err := unix.Mount("overlay", m.tree(), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", b.root, dir, dir)); err != nil {
		return m, fmt.Errorf("mount overlay: %w", err)
	}
	// Units are in /etc/systemd/system only; Debian's own would be found as well.
	const layout = `cd "$1"
mv etc/alternatives .alternatives
rm -rf etc var usr/lib/systemd/system usr/lib/systemd/user
mkdir -p etc var/empty nix/store nix/var/nix/profiles nix/var/nix/gcroots
mv .alternatives etc/alternatives`
	if _, err := command(ctx, "sh", "-euc", layout, "sh", m.tree()); err != nil {
		return m, err
	}
	m.profile(generation)
	return m, m.start(ctx, b.store(), toplevel)
}

func (m *machine) tree() string    { return filepath.Join(m.dir, "merged") }
func (m *machine) console() string { return filepath.Join(m.dir, "console") }

func (m *machine) start(ctx context.Context, store, toplevel string) error {
	log, err := os.Create(m.console())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--directory="+m.tree(), "--register=no", "--keep-unit",
		"--private-network", "--bind=/dev/net/tun", "--bind="+store+":/nix/store", "--machine=microvm-nixos-"+strconv.Itoa(os.Getpid()),
		"--console=pipe", "--resolv-conf=off", toplevel+"/init")
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = log, log
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := m.nspawn.Start(); err != nil {
		return err
	}
	go func() {
		_ = m.nspawn.Wait()
		close(m.ended)
	}()
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) || m.hasEnded() || ctx.Err() != nil {
			text, _ := os.ReadFile(m.console())
			return fmt.Errorf("the host did not boot, or not within %s:\n%s", bootTimeout, text)
		}
		// Asked anew each time: nspawn's first child makes the namespaces.
		if m.leader = child(m.nspawn.Process.Pid); m.leader == 0 {
			continue
		}
		switch state, _ := m.try("systemctl is-system-running"); state {
		case "running", "degraded":
			return nil
		}
	}
}

func (m *machine) hasEnded() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// child is the first child of a process, 0 while it has none.
func child(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	first, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	n, _ := strconv.Atoi(first)
	return n
}

// remove ends the container at once and throws it away.
func (m *machine) remove() error {
	if m.leader != 0 {
		_ = syscall.Kill(m.leader, syscall.SIGKILL)
	}
	if m.nspawn != nil && m.nspawn.Process != nil {
		_ = m.nspawn.Process.Kill()
		<-m.ended
	}
	err := unix.Unmount(m.tree(), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}

// failure ends a test, as testing.T's FailNow does.
type failure string

func (m *machine) fatalf(format string, args ...any) {
	panic(failure(fmt.Sprintf(format, args...)))
}

func (m *machine) step(format string, args ...any) {
	fmt.Printf("    "+format+"\n", args...)
}

// why is what the host has to say of a failure.
func (m *machine) why() string {
	out, _ := m.try("systemctl --failed --no-legend --plain; journalctl -q --no-pager -o short -n 300 | grep -vE 'skipped, unmet|tmpfiles|: \\[ +[0-9.]+\\]|blob data|KASLR|EDD|stand-in' | tail -60")
	return out
}

// try runs a script in the host and returns what it printed.
func (m *machine) try(script string) (string, error) {
	cmd := exec.CommandContext(m.ctx, "nsenter", "-t", strconv.Itoa(m.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--",
		"/usr/bin/env", "-i", "PATH=/run/current-system/sw/bin:/usr/bin", "HOME=/root", "/usr/bin/bash", "-uo", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
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
		if time.Now().After(deadline) || m.hasEnded() || m.ctx.Err() != nil {
			m.fatalf("%s: not within %s: %v\n%s", script, patience, err, out)
		}
	}
}

// profile makes a generation the profile's newest, as nix-env --set does.
func (m *machine) profile(generation string) {
	m.switches++
	dir := filepath.Join(m.tree(), "nix/var/nix/profiles")
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
		m.fatalf("there is no generation %s", generation)
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
