package cli

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/spec"
)

// buildOptions are the flags of build.
type buildOptions struct {
	output string
	// These are for those who build packages by a program, as Nix does, to a place
	// that they know. A package that somebody builds by hand may go anywhere: the
	// same spec gives the same bytes.
	at, programs, path string
}

func newBuild(c *Command) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build SPEC -o DIR",
		Short: "Compile a spec into a runner package",
		Long: "Compile a spec into a runner package. What it is to be warned of, it says on\n" +
			"standard error: a kernel that is not there, among others, for the package may be\n" +
			"for another host.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runBuild(c, o, args[0])
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "directory of the package")
	// For a build in a directory that is moved, and for another host.
	cmd.Flags().StringVar(&o.at, "at", "", "where the package will be, and stay")
	cmd.Flags().StringVar(&o.programs, "programs", "", "where microvm is installed that the package's scripts call")
	cmd.Flags().StringVar(&o.path, "path", "", "directories to append to PATH in bin/microvm-run")
	for _, name := range []string{"at", "programs", "path"} {
		_ = cmd.Flags().MarkHidden(name)
	}
	return cmd
}

func runBuild(c *Command, o buildOptions, specPath string) error {
	if o.output == "" {
		return exit.Usage(errors.New("where should the package go? Name a directory with -o DIR"))
	}
	s, err := spec.ParseFile(specPath, c.Host.StateDir, hypervisor.Rules)
	if err != nil {
		return err
	}
	options, err := packageOptions(c, o)
	if err != nil {
		return err
	}
	plan, err := runner.Build(newBuilder(c, exec.LookPath), s, o.output, options)
	if err != nil {
		return err
	}
	c.printf("built %s: %s under %s\n", o.output, plan.Name, plan.Hypervisor)
	c.printf("ready when: %s (%s)\n", plan.Readiness.Mode, plan.Readiness.Why)
	c.printf("goes down by: %s (%s)\n", plan.Shutdown.Method, plan.Shutdown.Why)
	for _, n := range slices.Concat(plan.Notes, notesOf(absent(plan)), portNotes(plan)) {
		_, _ = fmt.Fprintln(c.Stderr, "microvm: "+n)
	}
	return nil
}

// packageOptions is what a package's scripts are to have in them.
func packageOptions(c *Command, o buildOptions) (runner.Options, error) {
	options := runner.Options{LibexecDir: c.Host.LibexecDir, BinDir: c.BinDir, At: o.at, Path: o.path}
	if o.programs == "" {
		return options, nil
	}
	// The other installation has the same directories.
	for _, dir := range []*string{&options.LibexecDir, &options.BinDir} {
		below, err := filepath.Rel(filepath.Dir(c.BinDir), *dir)
		if err != nil {
			return options, fmt.Errorf("find %s below %s: %w", *dir, o.programs, err)
		}
		*dir = filepath.Join(o.programs, below)
	}
	return options, nil
}
