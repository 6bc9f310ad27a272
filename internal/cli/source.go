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

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/safepath"
	"microvm/internal/spec"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

// source is a package to install, which was built, or exists already.
type source struct {
	// path is the package. dir, if not empty, is the temporary directory that contains it.
	path, dir string
	notes     []string
	// absent are the files of the package's plan that do not exist on this host.
	absent []hypervisor.File
}

// startable returns an error if a VM with this package could not start, because a file
// does not exist. Credentials may be created before the start.
func (s source) startable(name string) error {
	for _, f := range s.absent {
		if !strings.HasPrefix(f.Role, "credentialFiles.") {
			return exit.WithHint(fmt.Errorf("%s was not created, because it could not start: %s %s not found", name, f.Role, f.Path),
				"create the file or correct the spec, or omit --start and --enable")
		}
	}
	return nil
}

// look finds out which files of the package do not exist on this host.
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

// buildFrom builds the package of a VM from its origin, in a temporary directory that
// source.remove deletes. The messages of nix go to stderr.
func buildFrom(ctx context.Context, c *Command, name string, from statedir.Origin, stderr io.Writer) (source, error) {
	dir, err := os.MkdirTemp(buildRoot(), "microvm-build-")
	if err != nil {
		return source{}, fmt.Errorf("create build directory: %w", err)
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

// buildRoot returns the directory in which packages are built. Root installs only what
// nobody else could have written, so TMPDIR of the user who called sudo is not followed
// if others can change it.
func buildRoot() string {
	dir := os.TempDir()
	if os.Geteuid() != 0 {
		return dir
	}
	// MkdirTemp will create a name that does not exist yet.
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
		// ctrl-c also goes to nix, which may die of it before we get the signal.
		if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGINT {
			return fmt.Errorf("nix: %w", context.Canceled)
		}
		return exit.WithHint(fmt.Errorf("nix could not build %s from flake %s: %w", name, flake, err), "list the outputs of the flake with: nix flake show")
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

// parseFor reads a spec, which must be that of the VM name.
func parseFor(host statedir.Host, name, path string) (*spec.Spec, error) {
	s, err := spec.ParseFile(path, host.StateDir, hypervisor.Rules)
	if err != nil {
		return nil, err
	}
	if s.Name != name {
		return nil, exit.WithHint(fmt.Errorf("%s describes a VM %q, not %q", path, s.Name, name), "use that name, or change \"name\" in the file")
	}
	return s, nil
}
