package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

// createOptions are the flags of create.
type createOptions struct {
	flake, spec, pkg string
	start, enable    bool
}

func newCreate(c *Command) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create NAME [-f FLAKE | -s SPEC | -p PACKAGE]",
		Short: "Create a VM from a flake, a spec or a runner package",
		Long: "Create a VM from a flake, a spec or a runner package, and record this source for\n" +
			"microvm update. The default, if Nix is installed, is the flake in " + hostConfig + ".\n\n" +
			"A build that fails or is interrupted leaves nothing behind. A file that the VM needs\n" +
			"and that does not exist on this host causes a warning, or an error with --start and\n" +
			"--enable.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return runCreate(ctx, c, o, args[0])
		},
	}
	cmd.Flags().StringVarP(&o.flake, "flake", "f", "", "build nixosConfigurations.NAME of this flake")
	cmd.Flags().StringVarP(&o.spec, "spec", "s", "", "compile this spec")
	cmd.Flags().StringVarP(&o.pkg, "package", "p", "", "install this runner package, which cannot be updated")
	cmd.Flags().BoolVar(&o.start, "start", false, "start the VM and wait until it is ready")
	cmd.Flags().BoolVar(&o.enable, "enable", false, "start the VM at boot")
	return cmd
}

// origin returns where the VM will be built from. A package has no origin.
func (o createOptions) origin() (statedir.Origin, error) {
	given := 0
	for _, from := range []string{o.flake, o.spec, o.pkg} {
		if from != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return statedir.Origin{}, exit.Usage(errors.New("-f, -s and -p are mutually exclusive"))
	case o.pkg != "":
		return statedir.Origin{}, nil
	case o.spec != "":
		path, err := lastingSpec(o.spec)
		return statedir.Origin{Spec: path}, err
	case o.flake == "":
		if _, err := exec.LookPath("nix"); err != nil {
			return statedir.Origin{}, exit.WithHint(exit.Usage(errors.New("-s SPEC or -p PACKAGE is required")), "to create it from a flake, install nix")
		}
		ref, err := hostFlake(hostConfig)
		return statedir.Origin{Flake: ref}, err
	}
	if err := checkFlake(o.flake); err != nil {
		return statedir.Origin{}, exit.Usage(err)
	}
	ref, err := statedir.AbsoluteFlake(o.flake)
	return statedir.Origin{Flake: ref}, err
}

// lastingSpec returns the absolute path of a spec, or an error if later updates could
// not read it again, as with a pipe.
func lastingSpec(spec string) (string, error) {
	path, err := filepath.Abs(spec)
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("locate spec %s: %w", spec, err), "use an absolute path")
	}
	info, err := os.Stat(path)
	passing := strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
	if passing || err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return "", exit.WithHint(fmt.Errorf("spec %s is not a regular file, so updates could not read it again", spec),
			"save it as a file, such as /etc/microvm/NAME.json")
	}
	return path, nil
}

func errExists(name string) error {
	return exit.WithHint(fmt.Errorf("VM %q already exists", name), "rebuild it with: microvm update %s, or remove it with: microvm rm %s", name, name)
}

func runCreate(ctx context.Context, c *Command, o createOptions, name string) error {
	v, err := c.anyVM(name)
	if err != nil {
		return err
	}
	from, err := o.origin()
	if err != nil {
		return err
	}
	if v.Created() {
		return errExists(name)
	}
	if err := needsRoot("creating a VM"); err != nil {
		return err
	}
	s := source{path: o.pkg}
	if o.pkg != "" {
		s.look()
	} else if s, err = buildFrom(ctx, c, name, from, c.Stderr); err != nil {
		return notCreated(name, err)
	}
	defer s.remove()
	if o.start || o.enable {
		if err := s.startable(name); err != nil {
			return err
		}
	}
	how := "created in"
	if v.Installed() {
		how = "taken over in" // from microvm.nix
	}
	if err := installNew(ctx, v, s.path, from); err != nil {
		return err
	}
	c.printf("%s: %s %s\n", name, how, v.Dir())
	for _, n := range s.notes {
		_, _ = fmt.Fprintln(c.Stderr, "microvm: "+n)
	}
	return afterCreate(ctx, c, o, v)
}

// notCreated returns the error of a build that failed with err.
func notCreated(name string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted: VM %q was not created, and nothing was left behind", name)
	}
	return err
}

// installNew installs a VM that does not exist yet. If it fails, it removes what it
// has created.
func installNew(ctx context.Context, v statedir.VM, path string, from statedir.Origin) error {
	existed, taken := v.Exists(), v.Installed()
	from.New = true
	// Signals have no effect from here on: this takes milliseconds, and is done or undone as a whole.
	whole := context.WithoutCancel(ctx)
	err := v.Install(whole, path, from, systemd.Reload)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, statedir.ErrExists):
		return errExists(v.Name)
	case errors.As(err, new(*runner.UntrustedError)) || !v.Exists() || taken:
		return err
	case existed:
		return errors.Join(err, v.RemoveKeepingData(whole, systemd.Reload))
	}
	return errors.Join(err, v.Remove(whole, systemd.Reload))
}

// afterCreate enables and starts a VM as asked, or prints how to start it.
func afterCreate(ctx context.Context, c *Command, o createOptions, v statedir.VM) error {
	if o.enable {
		if err := enableVM(ctx, c.Stdout, v.Name); err != nil {
			return fmt.Errorf("%s was created, but: %w", v.Name, err)
		}
	}
	if !o.start {
		c.printf("hint: start it with: microvm start %s\n", v.Name)
		return nil
	}
	failed, err := runJobs(ctx, c.Stdout, c.Stderr, systemd.Start, []statedir.VM{v})
	if err != nil {
		return fmt.Errorf("%s was created, but not started: %w", v.Name, err)
	}
	return several(failed, 1)
}
