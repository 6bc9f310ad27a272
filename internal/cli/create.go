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
		Short: "Make a VM from a flake, a spec or a runner package",
		Long: "Make a VM from a flake, a spec or a runner package. Where it comes from is\n" +
			"recorded, for microvm update. Without -f, -s and -p, and on a host that has\n" +
			"Nix, it is the flake in " + hostConfig + ".\n\n" +
			"A build that fails, or is interrupted, leaves nothing behind. A file of the VM's\n" +
			"that is not on this host is warned of, and with --start or --enable refused.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return runCreate(ctx, c, o, args[0])
		},
	}
	cmd.Flags().StringVarP(&o.flake, "flake", "f", "", "build nixosConfigurations.NAME of this flake")
	cmd.Flags().StringVarP(&o.spec, "spec", "s", "", "compile this spec")
	cmd.Flags().StringVarP(&o.pkg, "package", "p", "", "take this runner package, which nothing updates")
	cmd.Flags().BoolVar(&o.start, "start", false, "start the VM and wait until it is ready")
	cmd.Flags().BoolVar(&o.enable, "enable", false, "start the VM at boot")
	return cmd
}

// origin checks what the VM is to be made from. A package has none.
func (o createOptions) origin() (statedir.Origin, error) {
	given := 0
	for _, from := range []string{o.flake, o.spec, o.pkg} {
		if from != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return statedir.Origin{}, exit.Usage(errors.New("-f, -s and -p exclude each other; a VM comes from one of them"))
	case o.pkg != "":
		return statedir.Origin{}, nil
	case o.spec != "":
		path, err := lastingSpec(o.spec)
		return statedir.Origin{Spec: path}, err
	case o.flake == "":
		if _, err := exec.LookPath("nix"); err != nil {
			return statedir.Origin{}, exit.Usage(errors.New("where should the VM come from? Name a spec with -s, or a runner package with -p; flakes, -f, need nix in PATH"))
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

// lastingSpec is the absolute path of a spec that is there for later updates, too.
func lastingSpec(word string) (string, error) {
	path, err := filepath.Abs(word)
	if err != nil {
		return "", fmt.Errorf("find where spec %s is: %w; give an absolute path", word, err)
	}
	info, err := os.Stat(path)
	passing := strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
	if passing || err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return "", exit.WithHint(fmt.Errorf("spec %s is no file, and updates could not read it again", word),
			"write it into a file, such as /etc/microvm/NAME.json")
	}
	return path, nil
}

func errExists(name string) error {
	return fmt.Errorf("VM %q exists already; build it anew with: microvm update %s, or remove it first with: microvm rm %s", name, name, name)
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
	if err := needsRoot("create a VM"); err != nil {
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

// notCreated says what a build that failed left: nothing.
func notCreated(name string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; VM %q was not created, and nothing is left of it: run the same command again", name)
	}
	return err
}

// installNew installs a VM that was not there, or nothing of it.
func installNew(ctx context.Context, v statedir.VM, path string, from statedir.Origin) error {
	existed, taken := v.Exists(), v.Installed()
	from.New = true
	// A signal from here on waits: it takes milliseconds, and is whole or undone.
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

// afterCreate enables and starts a VM, or says how.
func afterCreate(ctx context.Context, c *Command, o createOptions, v statedir.VM) error {
	if o.enable {
		if err := enableVM(ctx, c.Stdout, v.Name); err != nil {
			return fmt.Errorf("%s was created, and: %w", v.Name, err)
		}
	}
	if !o.start {
		c.printf("start it with: microvm start %s\n", v.Name)
		return nil
	}
	failed, err := runJobs(ctx, c.Stdout, c.Stderr, systemd.Start, []statedir.VM{v})
	if err != nil {
		return fmt.Errorf("%s was created and not started: %w", v.Name, err)
	}
	return several(failed, 1)
}
