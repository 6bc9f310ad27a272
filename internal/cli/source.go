package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/safepath"
	"microvm/internal/spec"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

// source is a package that was built, or found, and what to do with it.
type source struct {
	// path is the package; dir, where it is set, holds it and is removed.
	path, dir string
	notes     []string
	// absent are the files of the package's plan that are not on this host.
	absent []hypervisor.File
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

// buildFrom makes the package of a VM from where it comes from, in a directory of
// its own. Nix's words go to stderr.
func buildFrom(ctx context.Context, c *Command, name string, from statedir.Origin, stderr io.Writer) (source, error) {
	dir, err := os.MkdirTemp(buildRoot(), "microvm-build-")
	if err != nil {
		return source{}, fmt.Errorf("make a directory to build in: %w", err)
	}
	s := source{path: filepath.Join(dir, "runner"), dir: dir}
	if from.Spec != "" {
		s.notes, err = buildSpec(c, name, from.Spec, s.path)
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

func buildSpec(c *Command, name, path, out string) ([]string, error) {
	s, err := parseFor(c.Host, name, path)
	if err != nil {
		return nil, err
	}
	plan, err := runner.Build(newBuilder(c, foreign.InUnit), s, out, runner.Options{LibexecDir: c.Host.LibexecDir, BinDir: c.BinDir})
	if err != nil {
		return nil, err
	}
	return plan.Notes, nil
}

// parseFor reads the spec of the VM of that name.
func parseFor(host statedir.Host, name, path string) (*spec.Spec, error) {
	s, err := spec.ParseFile(path, host.StateDir, hypervisor.Rules)
	if err != nil {
		return nil, err
	}
	if s.Name != name {
		return nil, fmt.Errorf("%s describes a VM %q, not %q; use that name, or change \"name\" in the file", path, s.Name, name)
	}
	return s, nil
}
