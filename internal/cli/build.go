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
	// These are for programs that build packages, such as Nix, and know where the
	// package will be. A package that is built manually can be moved anywhere: the same
	// spec gives the same bytes.
	at, programs, path string
}

func newBuild(c *Command) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build SPEC -o DIR",
		Short: "Compile a spec into a runner package",
		Long: "Compile a spec into a runner package.\n\n" +
			"Warnings go to standard error, for example about a kernel that does not exist on this\n" +
			"host. The package is written all the same, as it may be for another host.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runBuild(c, o, args[0])
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "directory to write the package to (required)")
	// For builds in a directory that is moved afterwards, and for another host.
	cmd.Flags().StringVar(&o.at, "at", "", "final path of the package")
	cmd.Flags().StringVar(&o.programs, "programs", "", "prefix of the microvm installation that the package's scripts call")
	cmd.Flags().StringVar(&o.path, "path", "", "directories to append to PATH in bin/microvm-run")
	for _, name := range []string{"at", "programs", "path"} {
		_ = cmd.Flags().MarkHidden(name)
	}
	return cmd
}

func runBuild(c *Command, o buildOptions, specPath string) error {
	if o.output == "" {
		return exit.Usage(errors.New("-o DIR is required"))
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
	c.printf("shut down by: %s (%s)\n", plan.Shutdown.Method, plan.Shutdown.Why)
	for _, n := range slices.Concat(plan.Notes, notesOf(absent(plan)), portNotes(plan)) {
		_, _ = fmt.Fprintln(c.Stderr, "microvm: "+n)
	}
	return nil
}

// packageOptions returns the paths that are written into the package's scripts.
func packageOptions(c *Command, o buildOptions) (runner.Options, error) {
	options := runner.Options{LibexecDir: c.Host.LibexecDir, BinDir: c.BinDir, At: o.at, Path: o.path}
	if o.programs == "" {
		return options, nil
	}
	// The other installation has the same directories below its prefix.
	for _, dir := range []*string{&options.LibexecDir, &options.BinDir} {
		below, err := filepath.Rel(filepath.Dir(c.BinDir), *dir)
		if err != nil {
			return options, fmt.Errorf("locate %s below %s: %w", *dir, o.programs, err)
		}
		*dir = filepath.Join(o.programs, below)
	}
	return options, nil
}
