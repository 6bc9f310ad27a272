package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/safepath"
	"microvm/internal/spec"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

// hostConfig is where VMs come from on a host with Nix where nothing else is said,
// as with microvm.nix.
const hostConfig = "/etc/nixos"

// checkFlake refuses what nix would take for something else than a flake, and
// what cannot be recorded. Everything else is nix's to judge.
func checkFlake(ref string) error {
	switch {
	case strings.TrimSpace(ref) == "":
		return errors.New("the flake reference is empty; give one such as git+https://git.example.org/infra")
	case strings.HasPrefix(ref, "-"):
		return fmt.Errorf("flake reference %q looks like a flag; write it with its scheme, such as path:/…", ref)
	case strings.ContainsAny(ref, "\x00\n\r"):
		return fmt.Errorf("flake reference %q holds a line break or a NUL byte; remove it", ref)
	}
	return nil
}

// hostFlake is the flake of the host's own configuration: the directory of
// flake.nix, after its links, as nixos-rebuild has it. In a git repository it is
// what git knows of it; elsewhere, all that is in the directory.
func hostFlake(etc string) (string, error) {
	file, err := filepath.EvalSymlinks(filepath.Join(etc, "flake.nix"))
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("there is no flake at %s: %w", etc, err), "name a flake with -f, or a spec with -s")
	}
	dir := filepath.Dir(file)
	for top := dir; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			ref := "git+file://" + (&url.URL{Path: top}).EscapedPath()
			if rel, err := filepath.Rel(top, dir); err == nil && rel != "." {
				ref += "?dir=" + strings.ReplaceAll(url.QueryEscape(rel), "+", "%20") // nix knows no other blank
			}
			return ref, nil
		}
		if top == "/" {
			return "path:" + (&url.URL{Path: dir}).EscapedPath(), nil
		}
	}
}

var plainAttribute = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]*$`)

// installable is the runner of a VM in a flake, as nix takes it. A name with a
// dot is quoted, as in Nix itself.
func installable(flake, name string) string {
	if !plainAttribute.MatchString(name) {
		name = `"` + name + `"`
	}
	return flake + "#nixosConfigurations." + name + ".config.microvm.declaredRunner"
}

// nix runs nix with arguments that no shell sees, and returns what it prints on
// its standard output. Its standard error goes to stderr.
func nix(ctx context.Context, stderr io.Writer, args ...string) (string, error) {
	path, err := exec.LookPath("nix")
	if err != nil {
		return "", errors.New("nix is not in PATH; install it, or describe the VM in a spec: microvm create NAME -s SPEC")
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // found in PATH, as the user means
	// Both features are in use everywhere and on by default nowhere.
	cmd.Env = append(os.Environ(), "NIX_CONFIG="+nixConfig(os.Getenv("NIX_CONFIG")))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return out.String(), err
}

func nixConfig(before string) string {
	const features = "extra-experimental-features = nix-command flakes"
	if before == "" {
		return features
	}
	return before + "\n" + features
}

// source is a package that was built, or found, and what to do with it.
type source struct {
	// path is the package; dir, where it is set, holds it and is removed.
	path, dir string
	notes     []string
	// absent are the files of the package's plan that are not on this host.
	absent []hypervisor.File
}

// absent are the files that a plan needs and that are not on this host. The
// package does not depend on them: it may be built for another one.
func absent(plan *hypervisor.Plan) []hypervisor.File {
	var out []hypervisor.File
	for _, f := range plan.Files {
		if _, err := os.Stat(f.Path); errors.Is(err, fs.ErrNotExist) {
			out = append(out, f)
		}
	}
	return out
}

// portNotes warn of forwarded ports that the hypervisors' account may not listen on
// here. Another host may allow it.
func portNotes(plan *hypervisor.Plan) []string {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return nil
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range plan.HostPorts {
		if p.Port < first {
			out = append(out, fmt.Sprintf("warning: forwardPorts: %s port %d of the host: hypervisors may listen from %d on only; forward from a higher port, or set sysctl net.ipv4.ip_unprivileged_port_start=%d", p.Proto, p.Port, first, p.Port))
		}
	}
	return out
}

func notesOf(files []hypervisor.File) []string {
	var out []string
	for _, f := range files {
		out = append(out, fmt.Sprintf("warning: %s: %s is not there; the VM starts only where it is", f.Role, f.Path))
	}
	return out
}

// startable is an error where a VM that is made of s cannot start for want of a
// file. Credentials may be there by the time of the start.
func (s source) startable(name string) error {
	for _, f := range s.absent {
		if !strings.HasPrefix(f.Role, "credentialFiles.") {
			return fmt.Errorf("%s cannot start, so it was not created: %s: %s is not there; put it there, or correct the spec; without --start and --enable it is created all the same", name, f.Role, f.Path)
		}
	}
	return nil
}

// look sees which files of the package are not on this host.
func (s *source) look() {
	if plan, ok := vm.PlanAt(s.path); ok {
		s.absent = absent(plan)
		s.notes = append(s.notes, notesOf(s.absent)...)
		s.notes = append(s.notes, portNotes(plan)...)
	}
}

func (s source) remove() {
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// build makes the package of a VM from where it comes from, in a directory of
// its own. Nix's words go to stderr.
func (c *Command) buildFrom(ctx context.Context, name string, from statedir.Origin, stderr io.Writer) (source, error) {
	dir, err := os.MkdirTemp(buildRoot(), "microvm-build-")
	if err != nil {
		return source{}, fmt.Errorf("make a directory to build in: %w", err)
	}
	s := source{path: filepath.Join(dir, "runner"), dir: dir}
	if from.Spec != "" {
		s.notes, err = c.buildSpec(name, from.Spec, s.path)
	} else {
		err = buildFlake(ctx, name, from.Flake, s.path, stderr)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.remove()
		return source{}, err
	}
	s.look()
	return s, nil
}

// buildRoot is where a package is built. Root installs only what root alone could
// have made, wherever TMPDIR of the person leads who called sudo.
func buildRoot() string {
	dir := os.TempDir()
	if os.Geteuid() != 0 {
		return dir
	}
	// What root makes there has a name that nothing has.
	place, err := safepath.WalkTrusted(filepath.Join(dir, "microvm-build"), safepath.ForNew)
	if err != nil {
		return "/tmp"
	}
	place.Close()
	return dir
}

func buildFlake(ctx context.Context, name, flake, out string, stderr io.Writer) error {
	_, err := nix(ctx, stderr, "build", "-o", out, installable(flake, name))
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		// Ctrl-C goes to nix as well, which may die of it before we hear of it.
		if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGINT {
			return fmt.Errorf("nix: %w", context.Canceled)
		}
		return fmt.Errorf("nix could not build %s from flake %s (%w); fix what it says above, or see what the flake has with: nix flake show", name, flake, err)
	}
	return err
}

func (c *Command) buildSpec(name, path, out string) ([]string, error) {
	s, err := c.parseFor(name, path)
	if err != nil {
		return nil, err
	}
	plan, err := runner.Build(c.builder(foreign.InUnit), s, out, runner.Options{LibexecDir: c.Host.LibexecDir, BinDir: c.BinDir})
	if err != nil {
		return nil, err
	}
	return plan.Notes, nil
}

// parseFor reads the spec of the VM of that name.
func (c *Command) parseFor(name, path string) (*spec.Spec, error) {
	s, err := spec.ParseFile(path, c.Host.StateDir, hypervisor.Rules)
	if err != nil {
		return nil, err
	}
	if s.Name != name {
		return nil, fmt.Errorf("%s describes a VM %q, not %q; use that name, or change \"name\" in the file", path, s.Name, name)
	}
	return s, nil
}
